//go:build cgo

package hsm

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The fields of testdata/forward.c's control file.
const (
	failEvery = iota
	failCode
	hangMS
	sessionLimit
	tokenOnly
	tokenFlags
	loginCode
	goneForGood
	lost
	crashAfter
	corrupt
	repeat
	destroyCode
	generateCode
	latencyUS
	stallMS
	meetAt
	metTimes
	clearFlags
	padOnly
	loginMS
	signCode
	signMS
	signWrong
	finalizeMS
	closeMS
	setCode
	copyCode
	oaepCode
	needPrivate
	randomMost
	pointForm
	mostSessions
	readOnly
	alwaysAuth
	wrapAs
	goneSlot
	crashIn // 1 more than the function's number
	crashHow
	callsMade
	loginsMade
	openNow
	mostOpen
	controlFields
)

// badToken is a SoftHSM behind a module that misbehaves on request.
type badToken struct {
	trialToken
	t       testing.TB
	control *os.File
}

// newBadToken builds testdata/forward.c and puts it before a fresh SoftHSM.
func newBadToken(t testing.TB) *badToken {
	t.Helper()
	gcc := needTool(t, "gcc", "gcc")
	token := newSoftHSM(t)
	u, err := ParseURI(token.uri)
	if err != nil {
		t.Fatal(err)
	}
	headers, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/miekg/pkcs11").Output()
	if err != nil {
		t.Fatal(err)
	}
	module := filepath.Join(token.dir, "forward.so")
	build := exec.Command(gcc, "-shared", "-fPIC", "-O1", "-I", strings.TrimSpace(string(headers)), "-o", module, "testdata/forward.c", "-ldl")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	path := filepath.Join(token.dir, "control")
	control, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { control.Close() })
	if err := control.Truncate(4 * controlFields); err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{"FORWARD_TO": u.ModulePath, "FORWARD_CONTROL": path} {
		t.Setenv(name, value)
		token.env[name] = value
	}
	token.uri = strings.Replace(token.uri, u.ModulePath, module, 1)
	return &badToken{token, t, control}
}

func (b *badToken) set(field int, value uint) {
	b.t.Helper()
	if _, err := b.control.WriteAt(binary.NativeEndian.AppendUint32(nil, uint32(value)), int64(4*field)); err != nil {
		b.t.Fatal(err)
	}
}

func (b *badToken) get(field int) int {
	b.t.Helper()
	value := make([]byte, 4)
	if _, err := b.control.ReadAt(value, int64(4*field)); err != nil {
		b.t.Fatal(err)
	}
	return int(binary.NativeEndian.Uint32(value))
}
