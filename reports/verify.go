package reports

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"keymill/pipeline"
)

// Trust is what an auditor brings along, none of it from the bundle.
type Trust struct {
	Keys      []PublicKey // of the stations; at least one
	Since     [][]byte    // earlier checkpoints that the logs must still contain
	Witnesses []*Witness  // each of which must have cosigned every station log
	// Authorities are the roots of RFC 3161 authorities; if given, each station
	// log must have a time stamp by one of them.
	Authorities *x509.CertPool
	seen        []namedHead // what a witness has signed before
}

// of returns the keys that may sign for a station: those without a name, and those
// whose name is that of one of its logs.
func (t Trust) of(station string) []PublicKey {
	return slices.DeleteFunc(slices.Clone(t.Keys), func(k PublicKey) bool {
		return k.Name != "" && k.Name != Origin(station) && k.Name != escapeName(station) && !strings.HasPrefix(k.Name, escapeName(station)+"/")
	})
}

// Report says what a verification found. It is valid when there are no
// problems.
type Report struct {
	Lot      string          `json:"lot,omitempty"`
	Station  string          `json:"station,omitempty"` // that exported
	Key      string          `json:"key,omitempty"`     // that signed: SHA-256 of its SPKI
	Custody  *Custody        `json:"custody,omitempty"` // of that key, as the station says
	Time     string          `json:"time,omitempty"`
	Files    int             `json:"files"`
	Devices  int             `json:"devices"`
	Events   int             `json:"events"`
	Totals   pipeline.Totals `json:"totals"`
	Logs     []LogHead       `json:"logs"`
	Lots     []LotSeen       `json:"lots"`   // that the station logs name
	Checks   []string        `json:"checks"` // what was found to be right
	Notes    []string        `json:"notes"`  // what was not or cannot be checked
	Problems []Problem       `json:"problems"`
}

// LotSeen is a lot of which a station log holds a signed head: somebody must have
// its bundle.
type LotSeen struct {
	Station string    `json:"station"`
	Lot     string    `json:"lot"`
	Events  int64     `json:"events"` // at the last head
	Time    time.Time `json:"time"`   // of the last head
}

// Problem is one thing that is wrong with a bundle. Its text may hold what the
// bundle says: escape it before it is shown.
type Problem struct {
	File string `json:"file,omitempty"` // slash-separated, below the bundle's folder
	Text string `json:"text"`
}

func (p Problem) String() string {
	if p.File == "" {
		return p.Text
	}
	return p.File + ": " + p.Text
}

// OK reports whether nothing is wrong.
func (r *Report) OK() bool { return len(r.Problems) == 0 }

func (r *Report) problem(file, format string, args ...any) {
	r.Problems = append(r.Problems, Problem{Printable(file), Printable(fmt.Sprintf(format, args...))})
}

func (r *Report) ok(format string, args ...any) {
	r.Checks = append(r.Checks, Printable(fmt.Sprintf(format, args...)))
}

// remark says what a verification did not check.
func (r *Report) remark(format string, args ...any) {
	r.Notes = append(r.Notes, Printable(fmt.Sprintf(format, args...)))
}

// note records a flaw as a problem and returns any other error.
func (r *Report) note(err error) error {
	if f, ok := errors.AsType[*flaw](err); ok {
		r.problem(f.file, "%s", f.text)
		return nil
	}
	if f, ok := errors.AsType[*forkError](err); ok {
		r.problem("", "%s", f)
		return nil
	}
	return err
}

// VerifyBundle checks a bundle with nothing but public keys: the signature of
// the statement, the hash of every file, that the logs hold exactly the listed
// events and still contain what earlier checkpoints vouch for, that the events
// lead to exactly the listed devices, and that whatever is said twice agrees.
// What is wrong is in the report; the error is for bundles that cannot be read at
// all.
func VerifyBundle(ctx context.Context, dir string, trust Trust) (*Report, error) {
	if len(trust.Keys) == 0 {
		return nil, pipeline.WithHint(errors.New("no public key to verify with"),
			"give the station's public key, which must not come from the bundle itself")
	}
	v := &verifier{dir: dir, trust: trust, report: &Report{}}
	signed, err := v.statement(ctx)
	if err != nil || !signed {
		return v.report, err
	}
	if err := v.report.note(v.files(ctx)); err != nil {
		return v.report, err
	}
	if !v.report.OK() {
		return v.report, nil // what follows would only repeat it in other words
	}
	checks := []func(context.Context) error{v.logs, v.lines, v.sums, v.tables}
	if !v.second() {
		v.report.remark("this bundle is of the first format: devices can be hidden in the parts of its log that it shows as hashes only, " +
			"and its tables and pages were not compared with devices.jsonl")
		checks = []func(context.Context) error{v.checkpoints, v.contents, v.sums}
	}
	for _, check := range checks {
		if err := v.report.note(check(ctx)); err != nil {
			return v.report, err
		}
		if !v.report.OK() {
			break
		}
	}
	return v.report, nil
}

type verifier struct {
	dir    string
	trust  Trust
	report *Report
	st     *Statement
	key    PublicKey         // that signed it
	wants  map[string][]want // by origin, of the first format: what the log must contain
	view   view              // of the second format
	keyed  *traces           // shortens texts; see shorts
	stats  Stats             // of the events, in their order in events.jsonl
	last   time.Time         // of the lot's last event
}

// shorts returns what shortens texts in this verification.
func (v *verifier) shorts() *traces {
	if v.keyed == nil {
		v.keyed = newTraces()
	}
	return v.keyed
}

// statement verifies the envelope; nothing else is looked at if that fails.
func (v *verifier) statement(ctx context.Context) (bool, error) {
	if info, err := os.Stat(v.dir); err != nil {
		return false, err
	} else if !info.IsDir() {
		return false, fmt.Errorf("%s is not a folder", v.dir)
	}
	data, err := v.read(fileStatement, maxStatement)
	if f, ok := errors.AsType[*flaw](err); ok && f.text == "is missing" {
		v.report.problem(fileStatement, "is missing: the bundle is not signed")
		return false, nil
	}
	if err != nil {
		return false, v.report.note(err)
	}
	st, key, err := openStatement(ctx, data, v.trust.Keys)
	if errors.Is(err, errOtherKey) && v.followRotations() {
		st, key, err = openStatement(ctx, data, v.trust.Keys)
	}
	if err != nil {
		v.report.problem(fileStatement, "%v", err)
		return false, nil
	}
	p := st.Predicate
	if !slices.ContainsFunc(v.trust.of(p.Station), func(k PublicKey) bool { return k.Name == key.Name }) {
		v.report.problem(fileStatement, "the key is %s's, but the statement is station %q's", key.Name, p.Station)
		return false, nil
	}
	v.st, v.key = st, key
	v.report.Lot, v.report.Station, v.report.Time = p.Lot, p.Station, p.Time
	v.report.Totals, v.report.Logs, v.report.Custody = p.Totals, p.Logs, p.Custody
	if v.report.Key, err = KeyID(key.Key); err != nil {
		return false, err
	}
	v.report.ok("the statement is signed by key %.16s..", v.report.Key)
	return true, nil
}

// sums checks that the hashes for stock tools are those of the statement.
func (v *verifier) sums(context.Context) error {
	var files []File
	for _, s := range v.st.Subject {
		if name, ok := strings.CutPrefix(s.Name, bundlePrefix); ok {
			files = append(files, File{Name: name, SHA256: s.Digest["sha256"]})
		}
	}
	got, err := v.read(fileSums, maxSmall)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, sums(files)) {
		return flawed(fileSums, "is signed, but does not hold the hashes of the files")
	}
	return nil
}

// names reports whether the statement vouches for a file.
func (v *verifier) names(file string) bool {
	return slices.ContainsFunc(v.st.Subject, func(s statementSubject) bool { return s.Name == bundlePrefix+file })
}

// clockSkew is how far a station's clock may be ahead of a witness's or an
// authority's.
const clockSkew = 5 * time.Minute

// timestamp checks the time stamp of a checkpoint, if there is one, and that the
// log's last event does not lie after it.
func (v *verifier) timestamp(head LogHead, signed []byte, last time.Time) error {
	name := v.folderOf(head) + "/" + nameTimestamp
	if !v.names(name) {
		if v.trust.Authorities != nil {
			return flawed(name, "is missing: the checkpoint has no time stamp")
		}
		return nil
	}
	answer, err := v.read(name, maxTimestamp)
	if err != nil {
		return err
	}
	t, err := parseTimestamp(answer)
	if err == nil {
		err = t.covers(signed)
	}
	if err != nil {
		return flawed(name, "%v", err)
	}
	if v.trust.Authorities == nil {
		v.report.remark("the log of station %s has a time stamp of %s, but no authority was given to check it", head.Station, stamp(t.time))
		return nil
	}
	signer, err := t.verify(v.trust.Authorities)
	if err != nil {
		return flawed(name, "%v", err)
	}
	if last.After(t.time.Add(clockSkew)) {
		return flawed(name, "is of %s, but the log's last event says %s", stamp(t.time), stamp(last))
	}
	v.report.ok("%s witnessed the checkpoint of station %s at %s", signer.Subject, head.Station, stamp(t.time))
	return nil
}

// cosigned checks the witnesses' signatures. Signatures of others are ignored, as
// C2SP tlog-checkpoint says; the text must be that of the signed checkpoint.
func (v *verifier) cosigned(head LogHead, signed []byte, last time.Time) error {
	name := v.folderOf(head) + "/" + nameCosigned
	data, err := readBounded(filepath.Join(v.dir, filepath.FromSlash(name)), maxCheckpoint)
	if errors.Is(err, fs.ErrNotExist) {
		if len(v.trust.Witnesses) > 0 {
			return flawed(name, "is missing: no witness has cosigned the checkpoint")
		}
		return nil
	}
	if err != nil {
		return flawed(name, "%v", err)
	}
	c, err := openCheckpoint(data, v.trust.of(head.Station), v.trust.Witnesses)
	if err != nil {
		return flawed(name, "%v", err)
	}
	if !bytes.HasPrefix(data, signed) {
		return flawed(name, "is not the signed checkpoint with cosignatures added")
	}
	for _, w := range v.trust.Witnesses {
		i := slices.IndexFunc(c.note.Sigs, func(s note.Signature) bool { return s.Name == w.name && s.Hash == w.id })
		if i < 0 {
			return flawed(name, "witness %s has not cosigned it", w.name)
		}
		if at := cosignedAt(c.note.Sigs[i]); last.After(at.Add(clockSkew)) {
			return flawed(name, "witness %s cosigned it at %s, but the log's last event says %s", w.name, stamp(at), stamp(last))
		}
	}
	if len(v.trust.Witnesses) == 0 {
		v.report.remark("the log of station %s has cosignatures, but no witness's key was given to check them", head.Station)
		return nil
	}
	v.report.ok("%d witnesses cosigned the checkpoint of station %s", len(v.trust.Witnesses), head.Station)
	return nil
}
