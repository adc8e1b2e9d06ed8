package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// hsmStation is a factory with a token of its own, for processes: what they need
// is in their environment, so that tests with stations can run side by side.
type hsmStation struct {
	*factory
	uri string
	env []string

	control *os.File       // of testdata/forward.c; nil for a token that behaves
	fields  map[string]int // of its control file, by name
}

// newStation sets up a SoftHSM below a factory.
func newStation(f *factory) *hsmStation {
	f.t.Helper()
	needTools(f.t, "softhsm2", "softhsm2-util")
	out, err := exec.Command("../../hsm/testdata/token.sh", "softhsm", f.path("token"), "factory").Output()
	if err != nil {
		f.t.Fatal(err)
	}
	s := &hsmStation{factory: f}
	for line := range strings.Lines(string(out)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		if name == "URI" {
			s.uri = value
		} else {
			s.env = append(s.env, name+"="+value)
		}
	}
	return s
}

var modulePath = regexp.MustCompile(`module-path=([^&]*)`)

// newBadStation puts hsm/testdata/forward.c before the SoftHSM: a module that
// misbehaves as set tells it.
func newBadStation(f *factory) *hsmStation {
	f.t.Helper()
	needTools(f.t, "gcc", "gcc")
	s := newStation(f)
	headers, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/miekg/pkcs11").Output()
	if err != nil {
		f.t.Fatal(err)
	}
	const source = "../../hsm/testdata/forward.c"
	module := f.path("forward.so")
	build := exec.Command("gcc", "-shared", "-fPIC", "-O1", "-I", strings.TrimSpace(string(headers)), "-o", module, source, "-ldl")
	if out, err := build.CombinedOutput(); err != nil {
		f.t.Fatalf("%v\n%s", err, out)
	}
	if s.control, err = os.Create(f.path("control")); err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { s.control.Close() })
	s.fields = controlFields(f.t, source)
	if err := s.control.Truncate(int64(4 * len(s.fields))); err != nil {
		f.t.Fatal(err)
	}
	real := modulePath.FindStringSubmatch(s.uri)[1]
	s.env = append(s.env, "FORWARD_TO="+real, "FORWARD_CONTROL="+s.control.Name())
	s.uri = strings.Replace(s.uri, real, module, 1)
	return s
}

// controlFields reads the module's source for the order of its fields.
func controlFields(t testing.TB, source string) map[string]int {
	t.Helper()
	text, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(string(text), "enum {")
	list, _, _ = strings.Cut(list, "FIELDS")
	fields := map[string]int{}
	for _, name := range regexp.MustCompile(`(?m)^\t([A-Z_]+),`).FindAllStringSubmatch(list, -1) {
		fields[name[1]] = len(fields)
	}
	return fields
}

func (s *hsmStation) at(field string) int64 {
	s.t.Helper()
	index, known := s.fields[field]
	if !known {
		s.t.Fatalf("forward.c has no %s", field)
	}
	return int64(4 * index)
}

func (s *hsmStation) set(field string, value uint32) {
	s.t.Helper()
	if _, err := s.control.WriteAt(binary.NativeEndian.AppendUint32(nil, value), s.at(field)); err != nil {
		s.t.Fatal(err)
	}
}

func (s *hsmStation) get(field string) int {
	s.t.Helper()
	value := make([]byte, 4)
	if _, err := s.control.ReadAt(value, s.at(field)); err != nil {
		s.t.Fatal(err)
	}
	return int(binary.NativeEndian.Uint32(value))
}

// lot are the arguments of a run with the token.
func (s *hsmStation) lot(more ...string) []string {
	return s.args(append([]string{"--hsm", s.uri, "--algorithm", "ecdsa-p256", "--format", "pack"}, more...)...)
}

// start starts keymill in a process of its own, with settings as NAME=value.
func (s *hsmStation) start(args []string, settings ...string) (*exec.Cmd, *bytes.Buffer) {
	s.t.Helper()
	cmd, log := s.process(args...)
	cmd.Env = append(append(cmd.Env, s.env...), settings...)
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	return cmd, log
}

// do runs keymill in a process of its own and returns its exit code and what it said.
func (s *hsmStation) do(args []string, settings ...string) (int, string) {
	s.t.Helper()
	cmd, log := s.start(args, settings...)
	return s.ended(cmd), log.String()
}

// ended waits for a process and returns its exit code.
func (s *hsmStation) ended(cmd *exec.Cmd) int {
	s.t.Helper()
	err := cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return 0
}

// checkTokenEmpty: no key is left in the token after gc has cleaned up.
func (s *hsmStation) checkTokenEmpty() {
	s.t.Helper()
	for _, args := range [][]string{{"hsm", "gc", "--destroy"}, {"hsm", "list", "--objects", "--json"}} {
		code, out := s.do(append(args, "--hsm", s.uri, "--ledger", s.ledger))
		if code != 0 {
			s.t.Fatalf("%v: exit %d: %s", args, code, out)
		}
		if strings.Contains(out, `"spki_sha256"`) {
			s.t.Errorf("keys are left in the token:\n%s", out)
		}
	}
	files, err := filepath.Glob(s.path("token", "tokens", "*", "*.object"))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, path := range files {
		info, err := os.Stat(path)
		if err != nil {
			s.t.Fatal(err)
		}
		// A SoftHSM that is killed while it makes an object leaves an empty file,
		// which is no object to it.
		if filepath.Base(path) != "token.object" && info.Size() > 0 {
			s.t.Errorf("%s is left in the token's folder", path)
		}
	}
}
