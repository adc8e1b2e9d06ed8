package imaging

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// corner is a golden image that somebody may have: its data partition's file
// system, what debugfs does to it, and either where the key must be or what the
// refusal says.
type corner struct {
	mkfs         string
	commands     []string
	target, real string
	refused      string
}

const realAgent = "/mender/mender-agent.pem"

// TestCorners has goldens whose key is there already in some odd shape, whose
// folders are special, or whose partition is full.
func TestCorners(t *testing.T) {
	big, small := host(t, strings.Repeat("old key ", 40000)), host(t, "x")
	there := func(more ...string) []string {
		return append([]string{"cd /mender", "write " + small + " mender-agent.pem"}, more...)
	}
	fill := func(files int, content string) (commands []string) {
		name := host(t, content)
		for i := range files {
			commands = append(commands, fmt.Sprintf("write %s fill%d", name, i))
		}
		return commands
	}
	attr := "ea_set mender-agent.pem user.x " + strings.Repeat("y", 40)
	const casefold = "-t ext4 -b 4096 -O casefold -E encoding=utf8"
	ignoresCase := []string{"mkdir cf", "sif cf flags 0x40080000", "cd cf"}
	for name, c := range map[string]corner{
		"larger file is replaced":         {"-t ext4 -b 1024", []string{"cd /mender", "write " + big + " mender-agent.pem"}, agentPath, realAgent, ""},
		"larger file with a block map":    {"-t ext2 -b 1024", []string{"cd /mender", "write " + big + " mender-agent.pem"}, agentPath, realAgent, ""},
		"immutable file":                  {"-t ext4", there("sif mender-agent.pem flags 0x80010"), agentPath, realAgent, ""},
		"append-only file":                {"-t ext4", there("sif mender-agent.pem flags 0x80020"), agentPath, realAgent, ""},
		"file with another name":          {"-t ext4", there("ln mender-agent.pem other", "sif other links_count 2"), agentPath, realAgent, ""},
		"sparse file":                     {"-t ext4", there("sif mender-agent.pem size 1000000"), agentPath, realAgent, ""},
		"file with preallocated blocks":   {"-t ext4 -b 1024", there("fallocate mender-agent.pem 0 900"), agentPath, realAgent, ""},
		"inline file":                     {"-t ext4 -b 4096 -O inline_data", there(), agentPath, realAgent, ""},
		"attribute in the inode":          {"-t ext4 -I 256", there(attr), agentPath, realAgent, ""},
		"attribute in a block":            {"-t ext4 -I 128", there(attr), agentPath, "", "outside its inode"},
		"attribute in an inode":           {"-t ext4 -b 1024 -O ea_inode", there("ea_set -f " + big + " mender-agent.pem user.x"), agentPath, "", "outside its inode"},
		"immutable folder":                {"-t ext4", []string{"sif mender flags 0x80010"}, agentPath, realAgent, ""},
		"folder that ignores case":        {casefold, ignoresCase, "/data/cf/key.pem", "/cf/key.pem", ""},
		"same file but for its case":      {casefold, append(ignoresCase, "write "+small+" KEY.PEM"), "/data/cf/key.pem", "/cf/KEY.PEM", ""},
		"same folder but for its case":    {casefold, append(ignoresCase, "mkdir Straße"), "/data/cf/STRASSE/key.pem", "/cf/Straße/key.pem", ""},
		"another folder but for its case": {casefold, []string{"mkdir CF"}, "/data/cf/key.pem", "/cf/key.pem", ""},
		"no free block":                   {"-t ext4 -b 1024", fill(40, strings.Repeat("z", 4<<20)), agentPath, "", "no room left"},
		"no free inode":                   {"-t ext4 -b 1024 -N 32", fill(40, "z"), agentPath, "", "no room left"},
		"orphans":                         {"-t ext4", []string{"write " + big + " gone", "sif gone links_count 0", "unlink gone", "ssv last_orphan 13"}, agentPath, realAgent, ""},
		"errors were seen":                {"-t ext4", []string{"ssv state 2"}, agentPath, realAgent, ""},
		"journal elsewhere":               {"-t ext4", []string{"ssv journal_inum 0", "ssv journal_dev 0x801", "ssv journal_uuid random"}, agentPath, "", "external journal"},
		"longest name":                    {"-t ext4 -b 1024", nil, "/data/" + strings.Repeat("n", 255), "/" + strings.Repeat("n", 255), ""},
		"name that is too long":           {"-t ext4", nil, "/data/" + strings.Repeat("n", 256), "", "255 are the most"},
		"deep folder":                     {"-t ext4 -b 1024", nil, "/data" + strings.Repeat("/d", 200) + "/k", strings.Repeat("/d", 200) + "/k", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testCorner(t, c)
		})
	}
}

func testCorner(t *testing.T, c corner) {
	g := sample(t, SampleOptions{Mkfs: append([]string{"mke2fs", "-q", "-F", "-L", "data"}, strings.Fields(c.mkfs)...)})
	data, err := g.Data()
	if err != nil {
		t.Fatal(err)
	}
	// Filling up ends in debugfs's errors, which are meant.
	tools := tools{sampleTime}
	if err := tools.debugfs(t.Context(), fmt.Sprintf("%s?offset=%d", g.Path(), data.Offset), c.commands); err != nil && c.refused != "no room left" {
		t.Fatal(err)
	}
	g = openTest(t, g.Path(), GoldenOptions{})
	if c.refused == "" {
		inject(t, g, c.target, c.real, []byte("a private key"))
		return
	}
	p, err := NewPlan(t.Context(), g, []Target{{Path: c.target}}, PlanOptions{Now: planTime, WorkDir: t.TempDir()})
	if err == nil {
		defer p.Close()
		_, err = p.Overlay(t.Context(), [][]byte{[]byte("a private key")})
	}
	if hint, ok := errors.AsType[*Error](err); !ok || hint.Hint() == "" || !strings.Contains(err.Error(), c.refused) {
		t.Errorf("got %v, want ..%s.. and a hint", err, c.refused)
	}
}

// What e2fsck has put right is not why it gives up.
func TestDamageIsNamed(t *testing.T) {
	g := sample(t, SampleOptions{Mkfs: []string{"mke2fs", "-q", "-F", "-L", "data", "-t", "ext4", "-O", "encrypt"}})
	data, err := g.Data()
	if err != nil {
		t.Fatal(err)
	}
	later := tools{planTime.AddDate(1, 0, 0)}
	image := fmt.Sprintf("%s?offset=%d", g.Path(), data.Offset)
	if err := later.debugfs(t.Context(), image, []string{"write " + host(t, "x") + " k", "sif k flags 0x80800"}); err != nil {
		t.Fatal(err)
	}
	_, err = NewPlan(t.Context(), openTest(t, g.Path(), GoldenOptions{}), []Target{{Path: agentPath}}, PlanOptions{Now: planTime, WorkDir: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), "encrypt") || strings.Contains(err.Error(), "in the future") {
		t.Errorf("%v", err)
	}
}

// A file system that goes on beyond its partition was cut off.
func TestCutOffFileSystem(t *testing.T) {
	script := `mke2fs -q -F -t ext4 "$0.large" 100M && dd if="$0.large" of="$0" bs=1M count=8 conv=notrunc status=none && rm "$0.large"`
	g := sample(t, SampleOptions{Mkfs: []string{"sh", "-c", script}})
	_, err := NewPlan(t.Context(), g, []Target{{Path: "partition:4:/key"}}, PlanOptions{Now: planTime, WorkDir: t.TempDir()})
	if hint, ok := errors.AsType[*Error](err); !ok || hint.Hint() == "" || !strings.Contains(err.Error(), "cannot be used: the file system has") {
		t.Errorf("%v", err)
	}
}

// TestShrunkGolden cuts the golden image off behind each format's back.
func TestShrunkGolden(t *testing.T) {
	for _, format := range Formats() {
		t.Run(format.Name, func(t *testing.T) {
			g, dir := sampleWith(t), t.TempDir()
			p := planTest(t, g, Target{Path: agentPath})
			o, err := p.Overlay(t.Context(), [][]byte{[]byte("key")})
			if err != nil {
				t.Fatal(err)
			}
			w, err := format.Open(t.Context(), g, dir)
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			if err := os.Truncate(g.Path(), 40<<20); err != nil {
				t.Fatal(err)
			}
			dst := filepath.Join(dir, format.FileName("device", g.Path()))
			if _, err := w.Write(t.Context(), o, dst); err == nil || !strings.Contains(err.Error(), "was changed while it was in use") {
				t.Errorf("%v", err)
			}
			if _, err := os.Stat(dst); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("it left an image: %v", err)
			}
		})
	}
}
