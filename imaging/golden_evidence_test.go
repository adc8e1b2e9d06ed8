package imaging

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// part is a partition of a test's image: a file system's label, "" for none at all,
// and its files; a name that ends in a slash is a folder, "->" a link.
type part struct {
	label string
	files map[string]string
}

// imageOf makes an image with a partition of 8 MiB for each part.
func imageOf(t testing.TB, kind string, parts ...part) string {
	t.Helper()
	need(t, e2fsprogs, "mke2fs")
	script := "label: " + kind + "\n"
	for range parts {
		script += "size=8MiB\n"
	}
	name := disk(t, int64(2+8*len(parts)+1)<<20, script)
	table, err := tableOf(t, name, 512)
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range parts {
		if p.files == nil {
			continue
		}
		putTree(t, name, table.Partitions[i].Offset, p)
	}
	return name
}

func putTree(t testing.TB, image string, offset int64, p part) {
	t.Helper()
	tree := t.TempDir()
	for name, content := range p.files {
		path := filepath.Join(tree, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		switch target, isLink := strings.CutPrefix(content, "->"); {
		case strings.HasSuffix(name, "/"):
			err = os.MkdirAll(path, 0o755)
		case isLink:
			err = os.Symlink(target, path)
		default:
			err = os.WriteFile(path, []byte(content), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	tool(t, "mke2fs", "-q", "-t", "ext4", "-L", p.label, "-d", tree, "-E", fmt.Sprintf("offset=%d", offset), image, "8M")
}

// rootfs is a root file system as mender-convert makes it, with changes.
func rootfs(changes ...string) part {
	files := map[string]string{
		"etc/fstab":    "/dev/root / auto defaults 1 1\nproc /proc proc defaults 0 0\nLABEL=data /data ext4 defaults 0 0\n",
		"etc/hostname": "x\n", "usr/bin/": "", "data/": "", "var/lib/mender": "->/data/mender",
	}
	for i := 0; i < len(changes); i += 2 {
		files[changes[i]] = changes[i+1]
		if changes[i+1] == "" {
			delete(files, changes[i])
		}
	}
	return part{"rootfs", files}
}

func TestDataPartitionByEvidence(t *testing.T) {
	boot, logs := part{"boot", map[string]string{"x": "y"}}, part{"logs", map[string]string{"log": "x"}}
	data := part{"data", map[string]string{"mender/device_type": "device_type=x"}}
	plain := part{"", map[string]string{"mender/": ""}}
	conf := `{"RootfsPartA": "/dev/mmcblk0p2", "RootfsPartB": "/dev/mmcblk0p3"}`
	other := func(device string) part {
		return rootfs("etc/fstab", device+" /data ext4 defaults 0 0\n")
	}
	for name, c := range map[string]struct {
		parts  []part
		number int
		says   string
	}{
		"as mender-convert makes it": {[]part{boot, rootfs("etc/mender/mender.conf", conf), rootfs(), data}, 4, "labelled"},
		"logs on 4, data on 3":       {[]part{boot, rootfs(), data, logs}, 3, "device_type"},
		"no boot partition":          {[]part{rootfs(), rootfs(), data}, 3, "fstab"},
		"extra partitions behind":    {[]part{boot, rootfs(), rootfs(), data, logs, logs}, 4, "labelled"},
		"no label, a folder":         {[]part{boot, rootfs("etc/fstab", ""), plain, logs}, 3, "folder /mender"},
		"only fstab, by number":      {[]part{boot, other("/dev/mmcblk0p3"), logs, logs}, 3, "fstab"},
		"nothing, 4 of 4":            {[]part{boot, rootfs("etc/fstab", ""), logs, {"", map[string]string{}}}, 4, "number 4 of 4"},
		"label against folder":       {[]part{boot, {"data", map[string]string{}}, plain, logs}, 0, "contradicts itself"},
		"label against fstab":        {[]part{boot, other("/dev/sda3"), logs, data}, 0, "contradicts itself"},
		"data would be a rootfs": {[]part{boot, rootfs("etc/mender/mender.conf", `{"RootfsPartA":"/dev/sda2","RootfsPartB":"/dev/sda4"}`),
			logs, data}, 0, "mender.conf names it as RootfsPartB"},
		"two labelled data": {[]part{data, data}, 0, "contradicts itself"},
		"rootfs on 4 of 4":  {[]part{boot, logs, rootfs("etc/fstab", ""), rootfs("etc/fstab", "")}, 0, "no partition shows itself"},
	} {
		for _, kind := range []string{"dos", "gpt"} {
			if kind == "dos" && len(c.parts) > 4 {
				continue
			}
			t.Run(name+"/"+kind, func(t *testing.T) {
				g := openTest(t, imageOf(t, kind, c.parts...), GoldenOptions{})
				p, err := g.Data()
				if c.number == 0 {
					if err == nil || !strings.Contains(err.Error(), c.says) {
						t.Fatalf("%+v, %v", p, err)
					}
					return
				}
				if err != nil || p.Number != c.number || !strings.Contains(g.DataReason(), c.says) {
					t.Fatalf("%+v because %q, %v", p, g.DataReason(), err)
				}
			})
		}
	}
}

// Number 1 of UUIDs and the like, as fstab may name the data partition.
func TestResolveDevices(t *testing.T) {
	table := &Table{Partitions: []Partition{
		{Number: 1, Label: "boot", FSUUID: "4B4D-4C31"},
		{Number: 5, Label: "persistent", FSLabel: "my data", FSUUID: "6b65796d-696c-4c00-8000-000000000004", PARTUUID: "314c4d4b-05"},
	}}
	for device, want := range map[string]int{
		"/dev/mmcblk0p5": 5, "/dev/sda5": 5, "/dev/nvme0n1p5": 5, "/dev/vdb1": 1, "UUID=6B65796D-696C-4C00-8000-000000000004": 5,
		`PARTLABEL="persistent"`: 5, "LABEL=my data": 5, "PARTUUID=314C4D4B-05": 5, "/dev/disk/by-partuuid/314c4d4b-05": 5,
		"/dev/disk/by-label/nothing": 0, "/dev/root": 0, "tmpfs": 0, "/dev/mmcblk0": 0, "/dev/sda7": 0, "ID=1": 0, "/dev/mapper/x5": 0,
	} {
		i, ok := table.resolve(device)
		if ok != (want != 0) || ok && table.Partitions[i].Number != want {
			t.Errorf("%s: %d, %v", device, i, ok)
		}
	}
	got := parseFstab("# c\nLABEL=my\\040data\t/data/ ext4\n\nUUID=1 none swap\n/dev/root / auto\nx\n")
	if fmt.Sprint(got) != "[{LABEL=my data /data} {/dev/root /}]" {
		t.Errorf("%q", got)
	}
}

func TestRootFileSystemAlone(t *testing.T) {
	name := filepath.Join(t.TempDir(), "core-image.ext4")
	tool(t, "truncate", "-s", "8M", name)
	putTree(t, name, 0, rootfs())
	_, err := OpenGolden(t.Context(), name, GoldenOptions{})
	if err == nil || !strings.Contains(err.Error(), "root file system alone") {
		t.Fatal(err)
	}
	data := filepath.Join(t.TempDir(), "core-image.dataimg")
	tool(t, "truncate", "-s", "8M", data)
	putTree(t, data, 0, part{"data", map[string]string{"mender/": ""}})
	if p, err := openTest(t, data, GoldenOptions{}).Data(); err != nil || p.Number != 1 {
		t.Fatalf("%+v, %v", p, err)
	}
}

// Would the device find its key?
func TestBootCheck(t *testing.T) {
	data := part{"data", map[string]string{"mender/device_type": "device_type=x"}}
	boot := part{"boot", map[string]string{"x": "y"}}
	for name, c := range map[string]struct {
		root    part
		path    string
		checked bool
		says    string // of the error where it begins with "!"
	}{
		"link":               {rootfs(), agentPath, true, "/var/lib/mender leads there in partition 2"},
		"relative link":      {rootfs("var/lib/mender", "->../../data/mender"), agentPath, true, "leads there"},
		"link through link":  {rootfs("var/lib/mender", "->/srv/m", "srv/m", "->/data/mender"), agentPath, true, "leads there"},
		"no fstab":           {rootfs("etc/fstab", ""), agentPath, true, "leads there"},
		"elsewhere":          {rootfs(), "/data/factory/serial", false, "not checked"},
		"no root":            {part{"", map[string]string{"a": "b"}}, agentPath, false, "no root file system"},
		"a real folder":      {rootfs("var/lib/mender", "", "var/lib/mender/", ""), agentPath, true, "!is no link to /data/mender"},
		"nothing":            {rootfs("var/lib/mender", ""), agentPath, true, "!is no link to /data/mender"},
		"another link":       {rootfs("var/lib/mender", "->/mnt/mender"), agentPath, true, "!leads to /mnt/mender"},
		"mounted elsewhere":  {rootfs("etc/fstab", "LABEL=data /mnt ext4\n"), agentPath, true, "!leads to /data/mender, not to /mnt/mender"},
		"elsewhere, linked":  {rootfs("etc/fstab", "LABEL=data /mnt ext4\n", "var/lib/mender", "->/mnt/mender"), agentPath, true, "leads there"},
		"circle":             {rootfs("var/lib/mender", "->/var/lib/mender"), agentPath, true, "!cannot be followed"},
		"hidden by a mount":  {rootfs(), "partition:2:/var/lib/mender/key.pem", true, "!hides the file"},
		"named below /data":  {rootfs(), "partition:2:/data/mender/key.pem", true, "!hides the file"},
		"hidden by tmpfs":    {rootfs("etc/fstab", "tmpfs /var/volatile tmpfs\n"), "partition:2:/var/volatile/x", true, "!hides the file"},
		"beside, not hidden": {rootfs(), "partition:2:/database/x", false, "not checked"},
	} {
		t.Run(name, func(t *testing.T) {
			image := imageOf(t, "gpt", boot, c.root, data)
			if name == "no root" {
				image = imageOf(t, "gpt", boot, data)
			}
			g := openTest(t, image, GoldenOptions{})
			plan, err := NewPlan(t.Context(), g, []Target{{Path: c.path}}, PlanOptions{Now: planTime, WorkDir: t.TempDir()})
			if want, refused := strings.CutPrefix(c.says, "!"); refused {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Fatalf("%v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer plan.Close()
			if check := plan.Boot(); check.Checked != c.checked || !strings.Contains(check.Text, c.says) {
				t.Errorf("%+v", check)
			}
		})
	}
	// A person who names the partition is told, and not stopped.
	g := openTest(t, imageOf(t, "gpt", boot, rootfs("var/lib/mender", ""), data), GoldenOptions{Partition: "3"})
	if check := planTest(t, g, Target{Path: agentPath}).Boot(); !check.Checked || !strings.Contains(check.Text, "would not find its key") {
		t.Errorf("%+v", check)
	}
}

// genimage writes partitions of type 0 where none is set; the kernel counts them.
func TestPartitionsOfTypeZero(t *testing.T) {
	name := imageOf(t, "dos", part{"boot", map[string]string{"x": "y"}}, rootfs(), rootfs(), part{"data", map[string]string{"mender/": ""}})
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i := range int64(4) {
		if _, err := f.WriteAt([]byte{0}, mbrEntries+i*mbrEntrySize+4); err != nil {
			t.Fatal(err)
		}
	}
	f.Close()
	g := openTest(t, name, GoldenOptions{})
	if p, err := g.Data(); err != nil || p.Number != 4 || len(g.Table().Partitions) != 4 {
		t.Fatalf("%+v, %v", p, err)
	}
}
