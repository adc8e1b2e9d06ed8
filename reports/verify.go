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

	"golang.org/x/mod/sumdb/note"

	"keymill/pipeline"
)

// Trust is what an auditor brings along, none of it from the bundle.
type Trust struct {
	Keys      []PublicKey // of the stations; at least one
	Since     [][]byte    // earlier checkpoints that the log must still contain
	Witnesses []*Witness  // each of which must have cosigned every checkpoint
	// Authorities are the roots of RFC 3161 authorities; if given, each
	// checkpoint must have a time stamp by one of them.
	Authorities *x509.CertPool
}

// Report says what a verification found. It is valid when there are no
// problems.
type Report struct {
	Lot      string          `json:"lot,omitempty"`
	Station  string          `json:"station,omitempty"` // that exported
	Key      string          `json:"key,omitempty"`     // that signed: SHA-256 of its SPKI
	Time     string          `json:"time,omitempty"`
	Files    int             `json:"files"`
	Devices  int             `json:"devices"`
	Events   int             `json:"events"`
	Totals   pipeline.Totals `json:"totals"`
	Logs     []LogHead       `json:"logs"`
	Checks   []string        `json:"checks"` // what was found to be right
	Problems []Problem       `json:"problems"`
}

// Problem is one thing that is wrong with a bundle.
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
	r.Problems = append(r.Problems, Problem{file, fmt.Sprintf(format, args...)})
}

func (r *Report) ok(format string, args ...any) {
	r.Checks = append(r.Checks, fmt.Sprintf(format, args...))
}

// note records a flaw as a problem and returns any other error.
func (r *Report) note(err error) error {
	if f, ok := errors.AsType[*flaw](err); ok {
		r.problem(f.file, "%s", f.text)
		return nil
	}
	return err
}

// VerifyBundle checks a bundle with nothing but public keys: the signature of
// the statement, the hash of every file, the checkpoints, that the log holds
// exactly the listed events and still contains what earlier checkpoints vouch
// for, and that the events lead to exactly the listed devices. What is wrong is
// in the report; the error is for bundles that cannot be read at all.
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
	if err := v.files(ctx); err != nil {
		return v.report, err
	}
	if !v.report.OK() {
		return v.report, nil // what follows would only repeat it in other words
	}
	for _, check := range []func(context.Context) error{v.checkpoints, v.contents, v.sums} {
		if err := v.report.note(check(ctx)); err != nil {
			return v.report, err
		}
	}
	return v.report, nil
}

type verifier struct {
	dir    string
	trust  Trust
	report *Report
	st     *Statement
	wants  map[string][]want // by origin: what the log must contain
}

// want is an earlier state of a log.
type want struct {
	size int64
	root [32]byte
	what string // for messages
	met  bool
}

// statement verifies the envelope; nothing else is looked at if that fails.
func (v *verifier) statement(ctx context.Context) (bool, error) {
	data, err := os.ReadFile(filepath.Join(v.dir, fileStatement))
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(v.dir); err != nil {
			return false, err
		}
		v.report.problem(fileStatement, "is missing: the bundle is not signed")
		return false, nil
	}
	if err != nil {
		return false, err
	}
	st, key, err := openStatement(ctx, data, v.trust.Keys)
	if err != nil {
		v.report.problem(fileStatement, "%v", err)
		return false, nil
	}
	p := st.Predicate
	if key.Name != "" && key.Name != Origin(p.Station) {
		v.report.problem(fileStatement, "the key is %s's, but the statement is station %q's", key.Name, p.Station)
		return false, nil
	}
	v.st = st
	v.report.Lot, v.report.Station, v.report.Time = p.Lot, p.Station, p.Time
	v.report.Totals, v.report.Logs = p.Totals, p.Logs
	if v.report.Key, err = KeyID(key.Key); err != nil {
		return false, err
	}
	v.report.ok("the statement is signed by key %.16s..", v.report.Key)
	return true, nil
}

// files compares what is in the folder with what the statement names.
func (v *verifier) files(ctx context.Context) error {
	named := map[string]string{}
	for _, s := range v.st.Subject {
		if name, ok := strings.CutPrefix(s.Name, bundlePrefix); ok {
			if _, twice := named[name]; twice {
				v.report.problem(fileStatement, "names %s twice", name)
			}
			named[name] = s.Digest["sha256"]
		}
	}
	err := filepath.WalkDir(v.dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(v.dir, p)
		if err != nil {
			return err
		}
		return v.file(filepath.ToSlash(rel), d, named)
	})
	if err != nil {
		return err
	}
	for name := range named {
		v.report.problem(name, "is missing")
	}
	slices.SortFunc(v.report.Problems, func(a, b Problem) int { return strings.Compare(a.File, b.File) })
	if v.report.OK() {
		v.report.ok("%d files have the hashes that were signed, and there are no others", v.report.Files)
	}
	return nil
}

func (v *verifier) file(name string, d fs.DirEntry, named map[string]string) error {
	if name == fileStatement || v.addedLater(name) {
		return nil
	}
	want, ok := named[name]
	delete(named, name)
	if !ok {
		v.report.problem(name, "was not there when the bundle was signed")
		return nil
	}
	if !d.Type().IsRegular() {
		v.report.problem(name, "is not a regular file")
		return nil
	}
	sum, err := hashFile(filepath.Join(v.dir, filepath.FromSlash(name)))
	if err != nil {
		return err
	}
	v.report.Files++
	if sum != want {
		v.report.problem(name, "was changed after it was signed (sha256 %.16s.., signed %.16s..)", sum, want)
	}
	return nil
}

// addedLater reports whether a file may come to a bundle after it was signed:
// checkpoints that witnesses cosigned, which carry signatures of their own.
func (v *verifier) addedLater(name string) bool {
	return slices.ContainsFunc(v.st.Predicate.Logs, func(h LogHead) bool {
		return name == logFile(h.Station, nameCosigned)
	})
}

// sums checks that the hashes for stock tools are those of the statement.
func (v *verifier) sums(context.Context) error {
	var files []File
	for _, s := range v.st.Subject {
		if name, ok := strings.CutPrefix(s.Name, bundlePrefix); ok {
			files = append(files, File{Name: name, SHA256: s.Digest["sha256"]})
		}
	}
	got, err := os.ReadFile(filepath.Join(v.dir, fileSums))
	if err != nil {
		return err
	}
	if !bytes.Equal(got, sums(files)) {
		return flawed(fileSums, "is signed, but does not hold the hashes of the files")
	}
	return nil
}

// checkpoints verifies the signed heads and gathers what the logs must contain.
func (v *verifier) checkpoints(context.Context) error {
	v.wants = map[string][]want{}
	for _, head := range v.st.Predicate.Logs {
		if head.Origin != Origin(head.Station) {
			return flawed(fileStatement, "the log of station %q cannot be %s", head.Station, head.Origin)
		}
		if err := v.checkpoint(head); err != nil {
			return err
		}
	}
	for _, signed := range v.trust.Since {
		c, err := openCheckpoint(signed, v.trust.Keys, nil)
		if err != nil {
			return flawed("", "the earlier checkpoint: %v", err)
		}
		if !slices.ContainsFunc(v.st.Predicate.Logs, func(h LogHead) bool { return h.Origin == c.origin }) {
			return flawed("", "the earlier checkpoint is of %s, whose log is not in this bundle", c.origin)
		}
		v.want(c, "the earlier checkpoint")
	}
	return nil
}

func (v *verifier) want(c *checkpoint, what string) {
	v.wants[c.origin] = append(v.wants[c.origin], want{size: c.size, root: c.root, what: what})
}

func (v *verifier) checkpoint(head LogHead) error {
	name := logFile(head.Station, nameCheckpoint)
	signed, err := v.read(name)
	if err != nil {
		return err
	}
	c, err := openCheckpoint(signed, v.trust.Keys, nil)
	if err != nil {
		return flawed(name, "%v", err)
	}
	if c.note.Text != head.text() {
		return flawed(name, "is not the head that the statement names")
	}
	v.want(c, "the checkpoint")
	if err := v.cosigned(head, signed); err != nil {
		return err
	}
	if err := v.timestamp(head, signed); err != nil {
		return err
	}
	name = logFile(head.Station, namePrevious)
	if !v.names(name) {
		return nil
	}
	if signed, err = v.read(name); err != nil {
		return err
	}
	previous, err := openCheckpoint(signed, v.trust.Keys, nil)
	if err != nil {
		return flawed(name, "%v", err)
	}
	if previous.origin != head.Origin || previous.size >= head.Size {
		return flawed(name, "is not an earlier checkpoint of this log")
	}
	v.want(previous, "the previous checkpoint")
	return nil
}

// names reports whether the statement vouches for a file.
func (v *verifier) names(file string) bool {
	return slices.ContainsFunc(v.st.Subject, func(s statementSubject) bool { return s.Name == bundlePrefix+file })
}

// timestamp checks the time stamp of a checkpoint, if there is one.
func (v *verifier) timestamp(head LogHead, signed []byte) error {
	name := logFile(head.Station, nameTimestamp)
	if !v.names(name) {
		if v.trust.Authorities != nil {
			return flawed(name, "is missing: the checkpoint has no time stamp")
		}
		return nil
	}
	answer, err := v.read(name)
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
		v.report.ok("the checkpoint of station %s has a time stamp of %s, but no authority was given to check it", head.Station, stamp(t.time))
		return nil
	}
	signer, err := t.verify(v.trust.Authorities)
	if err != nil {
		return flawed(name, "%v", err)
	}
	v.report.ok("%s witnessed the checkpoint of station %s at %s", signer.Subject, head.Station, stamp(t.time))
	return nil
}

func (v *verifier) read(name string) ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(v.dir, filepath.FromSlash(name)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, flawed(name, "is missing")
	}
	return data, err
}

// cosigned checks the witnesses' signatures. The file is not bound by the
// statement, so every signature in it must be one that was verified.
func (v *verifier) cosigned(head LogHead, signed []byte) error {
	name := logFile(head.Station, nameCosigned)
	data, err := os.ReadFile(filepath.Join(v.dir, filepath.FromSlash(name)))
	if errors.Is(err, fs.ErrNotExist) {
		if len(v.trust.Witnesses) > 0 {
			return flawed(name, "is missing: no witness has cosigned the checkpoint")
		}
		return nil
	}
	if err != nil {
		return err
	}
	c, err := openCheckpoint(data, v.trust.Keys, v.trust.Witnesses)
	if err != nil {
		return flawed(name, "%v", err)
	}
	if !bytes.HasPrefix(data, signed) {
		return flawed(name, "is not the signed checkpoint with cosignatures added")
	}
	for _, sig := range c.note.UnverifiedSigs {
		return flawed(name, "is signed by %s, whose key was not given as a witness's", sig.Name)
	}
	for _, w := range v.trust.Witnesses {
		if !slices.ContainsFunc(c.note.Sigs, func(s note.Signature) bool { return s.Name == w.name && s.Hash == w.id }) {
			return flawed(name, "witness %s has not cosigned it", w.name)
		}
	}
	v.report.ok("%d witnesses cosigned the checkpoint of station %s", len(v.trust.Witnesses), head.Station)
	return nil
}
