package ledger

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"keymill/pipeline"
)

// committerEnv makes the test binary commit to the ledger that it names until
// it is killed.
const committerEnv = "KEYMILL_TEST_COMMITTER"

const crashDevices = 400

// commitForever takes the devices of the lot round and round through states and
// prints "row attempts" for each commit that was acknowledged.
func commitForever(path string) {
	ctx := context.Background()
	l, err := Open(ctx, path)
	if err != nil {
		fmt.Println("open:", err)
		os.Exit(1)
	}
	var mu sync.Mutex
	for g := range 20 {
		go func() {
			for round := 0; ; round++ {
				for i := g; i < crashDevices; i += 20 {
					rec, err := l.Record(ctx, "lot", mac(i).Sum())
					if err != nil {
						fmt.Println("record:", err)
						os.Exit(1)
					}
					rec.Attempts++
					if err := move(ctx, l, rec, pipeline.States[rec.Attempts%len(pipeline.States)], "line-1"); err != nil {
						fmt.Println("commit:", err)
						os.Exit(1)
					}
					mu.Lock()
					fmt.Println(rec.Row, rec.Attempts)
					mu.Unlock()
				}
			}
		}()
	}
	select {}
}

// A ledger whose process is killed holds every commit that was acknowledged,
// and each commit's event, and no other.
func TestKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keymill.db")
	l := openAt(t, path)
	plan(t, l, "lot", 0, crashDevices)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	acknowledged := map[int]int{} // row -> attempts
	for _, kill := range []int{1, 30, 500, 77, 1200} {
		killAfter(t, path, kill, acknowledged)
		l := openAt(t, path)
		events := checkLog(t, l)["line-1"]
		commits := int64(0)
		for _, rec := range all(t, l.Records(t.Context(), "lot")) {
			if rec.Attempts < acknowledged[rec.Row] {
				t.Errorf("row %d: attempt %d was acknowledged, the ledger has %d", rec.Row, acknowledged[rec.Row], rec.Attempts)
			}
			commits += int64(rec.Attempts)
		}
		if events != commits+1 {
			t.Errorf("%d events for %d commits", events, commits)
		}
		totals(t, l, "lot")
		l.Close()
	}
}

// killAfter kills a committing process after it printed a number of lines, and
// notes these, and those that were in the pipe already.
func killAfter(t *testing.T, path string, lines int, acknowledged map[int]int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), committerEnv+"="+path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	scanner := bufio.NewScanner(out)
	for n := 1; scanner.Scan(); n++ {
		var row, attempts int
		if _, err := fmt.Sscan(scanner.Text(), &row, &attempts); err != nil {
			t.Errorf("the committer says %s", strconv.Quote(scanner.Text()))
			break
		}
		acknowledged[row] = max(acknowledged[row], attempts)
		if n == lines {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = cmd.Wait()
}
