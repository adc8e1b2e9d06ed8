package operator

import (
	"crypto/subtle"
	"encoding/base64"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
)

// Person is somebody with a badge. A badge says who is there; only a supervisor's
// PIN proves it.
type Person struct {
	Badge      string
	Name       string
	Supervisor bool
	pin        string // argon2id or bcrypt hash
}

// Badges are the people of a station.
type Badges struct {
	people []Person

	mu    sync.Mutex
	tries map[string]*pinTries // by badge
}

// pinTries counts wrong PINs of one supervisor.
type pinTries struct {
	wrong int
	until time.Time
}

// pinFree is how many wrong PINs are free; each further one costs a wait that
// doubles from pinWait up to pinLongest.
const (
	pinFree    = 3
	pinWait    = 30 * time.Second
	pinLongest = 15 * time.Minute
)

// ReadBadges reads a CSV file with the columns badge, name, role and pin. role is
// operator or supervisor; pin is the hash of a supervisor's PIN as `argon2 -id -e`
// or `htpasswd -nB` write it.
func ReadBadges(path string) (*Badges, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := parseBadges(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return b, nil
}

func parseBadges(r io.Reader) (*Badges, error) {
	rows := csv.NewReader(r)
	rows.Comment = '#'
	rows.TrimLeadingSpace = true
	rows.FieldsPerRecord = 4
	list, err := rows.ReadAll()
	if err != nil {
		return nil, err
	}
	if len(list) == 0 || !slices.Equal(list[0], []string{"badge", "name", "role", "pin"}) {
		return nil, errors.New("the first line must be badge,name,role,pin")
	}
	b := &Badges{tries: map[string]*pinTries{}}
	for i, row := range list[1:] {
		p := Person{Badge: row[0], Name: row[1], Supervisor: row[2] == "supervisor", pin: row[3]}
		switch {
		case p.Badge == "" || p.Name == "":
			return nil, fmt.Errorf("line %d: a badge and a name are needed", i+2)
		case row[2] != "operator" && row[2] != "supervisor":
			return nil, fmt.Errorf("line %d: the role is %q; it is operator or supervisor", i+2, row[2])
		case p.Supervisor && errors.Is(checkPIN(p.pin, ""), errHash):
			return nil, fmt.Errorf("line %d: a supervisor needs a PIN's hash, argon2id or bcrypt, never the PIN itself", i+2)
		case b.find(p.Badge) != nil:
			return nil, fmt.Errorf("line %d: two people have the badge %q", i+2, p.Badge)
		case read(p.Badge, nil).isCommand():
			return nil, fmt.Errorf("line %d: the badge %q is a command of the station", i+2, p.Badge)
		}
		b.people = append(b.people, p)
	}
	return b, nil
}

func (r reading) isCommand() bool { name, _ := r.command(); return name != "" }

// find returns whose badge it is, nil where it is nobody's.
func (b *Badges) find(texts ...string) *Person {
	if b == nil {
		return nil
	}
	for _, text := range texts {
		for i := range b.people {
			if text != "" && strings.EqualFold(b.people[i].Badge, text) {
				return &b.people[i]
			}
		}
	}
	return nil
}

// verify checks a supervisor's PIN. wait is how long no PIN is taken, 0 where one was.
func (b *Badges) verify(p *Person, pin string) (ok bool, wait time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.tries[p.Badge]
	if t == nil {
		t = &pinTries{}
		b.tries[p.Badge] = t
	}
	if left := time.Until(t.until); left > 0 {
		return false, left
	}
	if checkPIN(p.pin, pin) == nil {
		delete(b.tries, p.Badge)
		return true, 0
	}
	t.wrong++
	if t.wrong >= pinFree {
		pause := pinWait << min(t.wrong-pinFree, 10)
		t.until = time.Now().Add(min(pause, pinLongest))
	}
	return false, 0
}

var (
	errHash = errors.New("no hash of argon2id or bcrypt")
	errPIN  = errors.New("another PIN")
)

// argonMost bounds the memory, in KiB, and the passes that a hash may ask for.
const (
	argonMost   = 1 << 20
	argonPasses = 64
)

// checkPIN compares a PIN with its hash: $argon2id$v=19$m=65536,t=3,p=1$salt$hash
// (the encoded form of the reference implementation) or bcrypt's $2y$...
func checkPIN(hash, pin string) error {
	if strings.HasPrefix(hash, "$2") {
		switch err := bcrypt.CompareHashAndPassword([]byte(hash), []byte(pin)); {
		case err == nil:
			return nil
		case errors.Is(err, bcrypt.ErrMismatchedHashAndPassword):
			return errPIN
		}
		return errHash
	}
	parts := strings.Split(hash, "$")
	if len(parts) != 6 || parts[1] != "argon2id" || parts[2] != "v=19" {
		return errHash
	}
	var memory, passes uint32
	var threads uint8
	if n, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &memory, &passes, &threads); err != nil || n != 3 {
		return errHash
	}
	salt, err := base64.RawStdEncoding.DecodeString(parts[4])
	if err != nil {
		return errHash
	}
	want, err := base64.RawStdEncoding.DecodeString(parts[5])
	if err != nil || len(want) < 16 || len(salt) < 8 || memory < 8 || memory > argonMost || passes < 1 || passes > argonPasses || threads < 1 {
		return errHash
	}
	got := argon2.IDKey([]byte(pin), salt, passes, memory, threads, uint32(len(want)))
	if subtle.ConstantTimeCompare(got, want) != 1 {
		return errPIN
	}
	return nil
}
