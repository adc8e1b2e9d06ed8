package main

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"keymill/cmd/keymill/internal/process"
	"keymill/imaging"
	"keymill/sources"
)

// asMain makes the test binary the program itself, for tests that need a
// process to interrupt or kill.
const asMain = "KEYMILL_TEST_AS_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asMain) != "" {
		main()
		return
	}
	process.Tune() // as main does: the benchmarks measure the product
	testscript.Main(patient{m}, map[string]func(){"keymill": main})
}

// patient runs more of the tests that may run at once than there are cores,
// unless -parallel says otherwise: most of these wait, some for half a minute.
type patient struct{ *testing.M }

func (p patient) Run() int {
	flag.Parse()
	asked := false
	flag.Visit(func(f *flag.Flag) { asked = asked || f.Name == "test.parallel" })
	if !asked {
		_ = flag.Set("test.parallel", "6")
	}
	return p.M.Run()
}

// TestScripts runs the command lines in testdata/script, which double as
// documentation. Beside the usual commands of testscript they have:
//
//	golden FILE            a generated golden image
//	manifest FILE N        an invented manifest of N devices
//	sandbox [FLAGS..]      starts the trial server in ./sb, sets $SERVER
//	e2fsck IMAGE           checks the image's data partition
func TestScripts(t *testing.T) {
	needTools(t, "e2fsprogs", "e2fsck", "debugfs")
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Setenv("HOME", env.WorkDir)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"golden": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Check(imaging.Sample(t.Context(), ts.MkAbs(args[0]), imaging.SampleOptions{}))
			},
			"manifest": func(ts *testscript.TestScript, _ bool, args []string) {
				n, err := strconv.Atoi(args[1])
				ts.Check(err)
				file, err := os.Create(ts.MkAbs(args[0]))
				ts.Check(err)
				ts.Check(sources.Generate(file, n, 7))
				ts.Check(file.Close())
			},
			"sandbox": scriptSandbox,
			"e2fsck": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Check(checkData(t, ts.MkAbs(args[0])))
			},
		},
	})
}

// scriptSandbox starts `keymill sandbox` and waits until it says its URL.
func scriptSandbox(ts *testscript.TestScript, _ bool, args []string) {
	exe, err := os.Executable()
	ts.Check(err)
	cmd := exec.Command(exe, append([]string{"sandbox", "--dir", ts.MkAbs("sb"), "--seed", "1"}, args...)...)
	cmd.Env = append(os.Environ(), asMain+"=1")
	stdout, err := cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	ts.Defer(func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			ts.Logf("sandbox: %v", err)
		}
		if err := cmd.Wait(); err != nil {
			ts.Logf("sandbox: %v", err)
		}
	})
	url, err := bufio.NewReader(stdout).ReadString('\n')
	ts.Check(err)
	ts.Setenv("SERVER", strings.TrimSpace(url))
}

// checkData runs e2fsck over the data partition of an image and returns what
// it finds wrong.
func checkData(t *testing.T, path string) error {
	golden, err := imaging.OpenGolden(t.Context(), path, imaging.GoldenOptions{})
	if err != nil {
		return err
	}
	defer golden.Close()
	data, err := golden.Data()
	if err != nil {
		return err
	}
	out, err := exec.Command("e2fsck", "-fn", path+"?offset="+strconv.FormatInt(data.Offset, 10)).CombinedOutput()
	if err != nil {
		return fmt.Errorf("e2fsck %s: %w\n%s", filepath.Base(path), err, out)
	}
	return nil
}

// lacking skips a test for what this machine lacks, and fails it in CI.
func lacking(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// needTools skips a test on a machine without the tools of a Debian package,
// and fails it in CI.
func needTools(t testing.TB, debian string, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err == nil {
			continue
		}
		lacking(t, "%s is missing; .ci/setup installs Debian's %s", tool, debian)
	}
}
