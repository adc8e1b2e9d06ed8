package reports

import (
	"bytes"
	"crypto"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"keymill/pipeline"
)

// A forge is a dishonest factory at work: it has the station's key and ledger. It
// takes a bundle apart, changes what it likes, and puts everything together again
// that follows from it: numbers, trees, heads, tables, hashes, signatures.
type forge struct {
	t       testing.TB
	dir     string
	key     crypto.Signer
	st      *Statement
	leaves  []string // of the station log
	events  []string
	devices []*deviceLine
	// loose leaves totals and balance as they are, raw devices.jsonl, too.
	// sloppy leaves counts in events as they are.
	loose, raw, sloppy bool
	// after changes files when everything else is done, before it is signed.
	after func(f *forge)
}

func openForge(t testing.TB, dir string, key crypto.Signer) *forge {
	t.Helper()
	f := &forge{t: t, dir: dir, key: key}
	data := f.read(fileStatement)
	st, _, err := openStatement(t.Context(), data, trusted(key).Keys)
	if err != nil {
		t.Fatal(err)
	}
	f.st, f.leaves, f.events = st, f.lines("log/line-3/leaves.jsonl"), f.lines(fileEvents)
	for _, line := range f.lines(fileDevices) {
		d, err := parseDevice([]byte(line), true)
		if err != nil {
			t.Fatal(err)
		}
		f.devices = append(f.devices, d)
	}
	return f
}

func (f *forge) read(name string) []byte {
	f.t.Helper()
	data, err := os.ReadFile(filepath.Join(f.dir, name))
	if err != nil {
		f.t.Fatal(err)
	}
	return data
}

func (f *forge) write(name string, data []byte) {
	f.t.Helper()
	path := filepath.Join(f.dir, name)
	_ = os.Remove(path)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		f.t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		f.t.Fatal(err)
	}
}

func (f *forge) lines(name string) []string {
	text := strings.TrimSuffix(string(f.read(name)), "\n")
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}

// of returns the indexes of events that hold all of the texts.
func (f *forge) of(texts ...string) (found []int) {
	for i, line := range f.events {
		if !slices.ContainsFunc(texts, func(s string) bool { return !strings.Contains(line, s) }) {
			found = append(found, i)
		}
	}
	if len(found) == 0 {
		f.t.Fatalf("no event has %q", texts)
	}
	return found
}

// drop removes events, edit changes them.
func (f *forge) drop(texts ...string) {
	for _, i := range slices.Backward(f.of(texts...)) {
		f.events = slices.Delete(f.events, i, i+1)
	}
}

func (f *forge) edit(from, to string, texts ...string) {
	for _, i := range f.of(texts...) {
		f.events[i] = strings.Replace(f.events[i], from, to, 1)
	}
}

// setFact sets a fact of an event's line.
func setFact(line, name, value string) string {
	quoted, _ := json.Marshal(value)
	re := regexp.MustCompile(`"` + name + `":"(?:[^"\\]|\\.)*"`)
	return re.ReplaceAllLiteralString(line, `"`+name+`":`+strings.NewReplacer(`\u003c`, "<", `\u003e`, ">", `\u0026`, "&").Replace(string(quoted)))
}

var seqMember = regexp.MustCompile(`"seq":\d+`)

func renumber(lines []string) {
	for i := range lines {
		lines[i] = seqMember.ReplaceAllString(lines[i], `"seq":`+strconv.Itoa(i+1))
	}
}

// rootOf returns the root of the first n lines' tree.
func rootOf(lines []string, n int) string {
	var tree frontier
	for i, line := range lines[:n] {
		tree.push(node{start: int64(i), hash: pipeline.LeafHash([]byte(line))})
	}
	return tree.root().String()
}

// logs numbers the events anew and makes all heads follow from them.
func (f *forge) logs() {
	renumber(f.events)
	last := map[int]pipeline.State{}
	for i, line := range f.events {
		e, err := parseEvent([]byte(line))
		if err != nil {
			continue
		}
		if e.To != "" {
			last[e.Row] = e.To
		}
		if e.Action == pipeline.ActionRunEnd && !f.sloppy {
			counts := map[pipeline.State]int{pipeline.Planned: f.st.Predicate.Devices - len(last)}
			for _, state := range last {
				counts[state]++
			}
			for _, state := range pipeline.States {
				line = setFact(line, string(state), strconv.Itoa(counts[state]))
			}
			f.events[i] = line
		}
		if e.Action == pipeline.ActionClose {
			if !f.sloppy {
				f.sums()
				balance, _ := json.Marshal(f.st.Predicate.Balance)
				line = setFact(line, "balance", string(balance))
			}
			heads, _ := json.Marshal([]namedHead{{LotOrigin("line-3", f.st.Predicate.Lot, 1), rootOf(f.events, i), int64(i)}})
			f.events[i] = setFact(line, "heads", string(heads))
		}
	}
	heads := 0
	for i, line := range f.leaves {
		if strings.Contains(line, `"lot":"`+f.st.Predicate.Lot+`"`) {
			heads = i
		}
	}
	size := len(f.events)
	if heads > 0 {
		line := setFact(setFact(f.leaves[heads], "size", strconv.Itoa(size)), "root", rootOf(f.events, size))
		f.leaves[heads] = line
	}
	renumber(f.leaves)
	f.write(fileEvents, []byte(strings.Join(f.events, "\n")+"\n"))
	f.write("log/line-3/leaves.jsonl", []byte(strings.Join(f.leaves, "\n")+"\n"))
	p := &f.st.Predicate
	p.Events = size
	for i := range p.Logs {
		h := &p.Logs[i]
		if h.Kind == KindStation {
			h.Size, h.Root = int64(len(f.leaves)), rootOf(f.leaves, len(f.leaves))
		} else {
			h.Size, h.Events, h.Root = int64(size), int64(size), rootOf(f.events, size)
		}
		signed, err := h.sign(f.key)
		if err != nil {
			f.t.Fatal(err)
		}
		f.write(folderOf(*h)+"/"+nameCheckpoint, signed)
	}
}

// sums makes totals and balance follow from the devices.
func (f *forge) sums() {
	p := &f.st.Predicate
	p.Totals, p.Balance = pipeline.Totals{Lot: p.Lot}, Balance{}
	for _, d := range f.devices {
		p.Balance.add(d.standing())
		p.Totals.Devices++
		*p.Totals.Count(d.State)++
		p.Totals.Keys.Generated += d.KeysGenerated
		p.Totals.Keys.Destroyed += d.KeysDestroyed
		if d.State == pipeline.Released {
			p.Totals.Keys.Released++
		}
	}
	p.Imbalances = p.Balance.Check(p.Devices)
	p.Reconciles = len(p.Imbalances) == 0
	if p.Imbalances == nil {
		p.Imbalances = []string{}
	}
}

// tables writes tables and pages anew.
func (f *forge) tables() {
	v := &verifier{dir: f.dir, st: f.st, key: PublicKey{Key: f.key.Public()}, report: &Report{}}
	v.report.Key, _ = KeyID(f.key.Public())
	for _, line := range f.events {
		e, err := parseEvent([]byte(line))
		if err != nil {
			return // what does not read cannot be shown
		}
		v.stats.add(e)
		v.last = e.Time
	}
	s, err := v.summary()
	if err != nil {
		return
	}
	if err := v.failures(s); err != nil {
		return
	}
	out := &bundleDir{dir: f.dir}
	chosen := slices.DeleteFunc(formats(), func(one format) bool { return one.name == "jsonl" || !v.names(one.files[0]) })
	for _, one := range append(slices.Clone(chosen), format{"images", []string{fileImages}, openImageSums}) {
		_ = os.Remove(filepath.Join(f.dir, one.files[0]))
		work, within := errgroup.WithContext(f.t.Context())
		in := make(chan []*pipeline.Record, aheadBatches)
		work.Go(func() error { return one.write(within, out, s, in) })
		work.Go(func() error { return readAhead(within, v.eachDevice, in) })
		if err := work.Wait(); err != nil {
			f.t.Fatalf("%s: %v", one.name, err)
		}
	}
	text, err := readme(s, f.st.Predicate.Station, f.key.Public(), chosen)
	if err != nil {
		f.t.Fatal(err)
	}
	f.write(fileReadme, text)
}

// seal puts the bundle together and signs it.
func (f *forge) seal() {
	f.t.Helper()
	f.logs()
	if !f.raw {
		var b bytes.Buffer
		enc := deviceEncoder(&b)
		for _, d := range f.devices {
			if err := enc.Encode(d); err != nil {
				f.t.Fatal(err)
			}
		}
		f.write(fileDevices, b.Bytes())
	}
	if !f.loose {
		f.sums()
	}
	f.tables()
	if f.after != nil {
		f.after(f)
	}
	resign(f.t, f.dir, f.key, func(st *Statement) {
		subjects := st.Subject
		others := slices.DeleteFunc(slices.Clone(f.st.Subject), func(s statementSubject) bool { return strings.HasPrefix(s.Name, bundlePrefix) })
		*st = *f.st
		st.Subject = append(slices.DeleteFunc(subjects, func(s statementSubject) bool { return !strings.HasPrefix(s.Name, bundlePrefix) }), others...)
		st.Predicate.Files = map[string]int64{}
		for _, s := range st.Subject {
			if name, ok := strings.CutPrefix(s.Name, bundlePrefix); ok {
				st.Predicate.Files[name] = int64(len(f.read(name)))
			}
		}
	})
}

// device returns a released device that nothing else happened to.
func (f *forge) device(i int) *deviceLine { return f.devices[i] }

func (f *forge) mac(i int) string { return f.devices[i].Identity["mac"] }

// A forgery is one thing that a dishonest factory can do.
type forgery struct {
	name string
	does func(f *forge, n int)
	says string // in a problem
	// variants is how often it can be done in another way.
	variants int
	// pages says that only tables and pages are forged, which the small verifier
	// does not make again.
	pages bool
}

func hide(f *forge, n int) {
	f.drop(f.mac(n))
	f.devices = slices.Delete(f.devices, n, n+1)
}

func swapText(a, b *string) { *a, *b = *b, *a }

// forgeries are found in the bundle alone.
func forgeries() []forgery {
	return []forgery{
		{"hide one device", hide, "", 20, false},
		{"hide one device and say that fewer were planned", func(f *forge, n int) {
			hide(f, n)
			f.st.Predicate.Devices = 19
			f.edit(`"devices":"20"`, `"devices":"19"`, "lot-planned")
		}, "other devices or attributes than were planned", 10, false},
		{"hide 19 of 20", func(f *forge, _ int) {
			for len(f.devices) > 1 {
				hide(f, 1)
			}
		}, "", 1, false},
		{"hide the plan", func(f *forge, _ int) { f.drop("lot-planned") }, "before the lot was planned", 1, false},
		{"hide the close, and say so", func(f *forge, _ int) {
			f.drop("lot-closed")
		}, "closed", 1, false},
		{"hide the close behind a head that names it", func(f *forge, _ int) {
			f.drop("lot-closed")
			f.st.Predicate.Closed = ""
			f.after = func(f *forge) {
				for i := range f.leaves {
					f.leaves[i] = setFact(f.leaves[i], "size", "999")
				}
				f.resignStation()
			}
		}, "", 1, false},
		{"swap serials in the list", func(f *forge, n int) {
			a, b := f.device(n).Attributes, f.device(n+1).Attributes
			a["serial"], b["serial"] = b["serial"], a["serial"]
		}, "another serial", 5, false},
		{"swap serials in list and events", func(f *forge, n int) {
			a, b := f.device(n).Attributes, f.device(n+1).Attributes
			f.edit(a["serial"], "XX", f.mac(n))
			f.edit(b["serial"], a["serial"], f.mac(n+1))
			f.edit("XX", b["serial"], f.mac(n))
			a["serial"], b["serial"] = b["serial"], a["serial"]
		}, "other devices or attributes than were planned", 5, false},
		{"reuse a serial", func(f *forge, n int) {
			was := f.device(n).Attributes["serial"]
			f.edit(was, f.device(n + 1).Attributes["serial"], f.mac(n))
			f.device(n).Attributes["serial"] = f.device(n + 1).Attributes["serial"]
			f.edit("x", "x", "lot-planned")
			f.reroster()
		}, "have the same \"serial\"", 5, false},
		{"change an attribute", func(f *forge, n int) { f.device(n).Attributes["note"] = "market: EU" }, "than were planned", 5, false},
		{"swap image hashes", func(f *forge, n int) {
			swapText(&f.device(n).OutputSHA256, &f.device(n+1).OutputSHA256)
		}, "another image", 5, false},
		{"swap image names", func(f *forge, n int) { swapText(&f.device(n).OutputName, &f.device(n+1).OutputName) }, "another image", 2, false},
		{"swap keys", func(f *forge, n int) {
			a, b := f.device(n), f.device(n+1)
			a.PublicKey, b.PublicKey = b.PublicKey, a.PublicKey
			swapText(&a.SPKISHA256, &b.SPKISHA256)
		}, "another key", 5, false},
		{"exchange a key in list and release", func(f *forge, n int) {
			d := f.device(n)
			was := d.SPKISHA256
			d.PublicKey = spki(f.t, "stolen")
			d.SPKISHA256 = pipeline.Fingerprint(d.PublicKey)
			f.edit(was, d.SPKISHA256, f.mac(n), `"to":"released"`)
		}, "another one than was staged", 3, false},
		{"claim HSM keys", func(f *forge, _ int) { f.st.Predicate.Keys = "hsm" }, `says keys "software", the statement "hsm"`, 1, false},
		{"claim an HSM for the audit key", func(f *forge, _ int) { f.st.Predicate.Custody = &Custody{Kind: "hsm", Extractable: "no"} }, "custody", 1, false},
		{"claim another algorithm", func(f *forge, _ int) { f.st.Predicate.Algorithm = "rsa-4096" }, "algorithm", 1, false},
		{"claim another server", func(f *forge, _ int) { f.st.Predicate.Server = "https://other.example" }, "server", 1, false},
		{"claim another golden image", func(f *forge, _ int) { f.subject("golden", strings.Repeat("0", 64)) }, "golden_sha256", 1, false},
		{"claim another manifest", func(f *forge, _ int) { f.subject("manifest", strings.Repeat("0", 64)) }, "manifest_sha256", 1, false},
		{"claim another injection", func(f *forge, _ int) { f.st.Predicate.Injection = strings.Repeat("0", 64) }, "inject_sha256", 1, false},
		{"claim another format", func(f *forge, _ int) { f.st.Predicate.Format = "qcow2" }, "format", 1, false},
		{"back-date one event", func(f *forge, n int) {
			i := f.of(f.mac(n), `"to":"released"`)[0]
			f.events[i] = regexp.MustCompile(`"time":"2026-03-14`).ReplaceAllString(f.events[i], `"time":"2026-03-13`)
		}, "before the one that it follows", 3, false},
		{"back-date a whole lot log", func(f *forge, _ int) {
			for i := range f.events {
				f.events[i] = strings.Replace(f.events[i], `"time":"2026-03-14`, `"time":"2026-03-13`, 1)
			}
		}, "the event is of 2026-03-13", 1, false},
		{"post-date a lot log beyond its head", func(f *forge, _ int) {
			for i := range f.events {
				f.events[i] = strings.Replace(f.events[i], `"time":"2026-03-14`, `"time":"2026-03-15`, 1)
			}
		}, "already", 1, false},
		{"claim another time", func(f *forge, _ int) { f.st.Predicate.Planned = "2025-01-01T00:00:00.000000Z" }, "planned", 1, false},
		{"add a clone as a device", func(f *forge, n int) {
			d := *f.device(n)
			d.Row = 99
			d.Identity, d.Attributes = map[string]string{"mac": "02:99"}, map[string]string{"mac": "02:99", "serial": "SN99", "note": ""}
			for _, i := range f.of(f.mac(n)) {
				line := strings.Replace(f.events[i], fmt.Sprintf(`"row":%d,`, f.device(n).Row), `"row":99,`, 1)
				line = strings.Replace(strings.Replace(line, f.mac(n), "02:99", 1), f.device(n).Attributes["serial"], "SN99", 1)
				f.events = slices.Insert(f.events, i+1, line)
				f.events[i], f.events[i+1] = f.events[i+1], f.events[i]
			}
			f.devices = append(f.devices, &d)
		}, "", 3, false},
		{"add a clone in place of a device", func(f *forge, n int) {
			a, b := f.device(n), f.device(n+1)
			was := b.SPKISHA256
			b.PublicKey, b.SPKISHA256 = a.PublicKey, a.SPKISHA256
			f.edit(was, a.SPKISHA256, f.mac(n+1), `"to":"staged"`)
			f.edit(was, a.SPKISHA256, f.mac(n+1), `"to":"preauthorized"`)
			f.edit(was, a.SPKISHA256, f.mac(n+1), `"to":"released"`)
		}, "have the same key", 3, false},
		{"add a clone as a second unit", func(f *forge, n int) {
			i := f.of(f.mac(n), `"to":"released"`)[0]
			line := regexp.MustCompile(`"(algorithm|from|to|key|output_\w+|read_back|spki_sha256)":("[^"]*"|\d+),?`).ReplaceAllString(f.events[i], "")
			line = strings.Replace(strings.Replace(line, ",}", "}", 1), `"action":"released"`, `"action":"unit-reserved"`, 1)
			one, two := strings.Replace(line, `"Z"}`, `"Z"}`, 1), line
			one = strings.TrimSuffix(one, "}") + `,"unit":1}`
			two = strings.TrimSuffix(two, "}") + `,"unit":2}`
			f.events = slices.Insert(f.events, i+1, one, two)
		}, "a clone", 2, false},
		{"pass a failed device off as released", func(f *forge, _ int) {
			for _, d := range f.devices {
				if d.State == pipeline.Failed {
					d.State, d.Reason = pipeline.Released, ""
				}
			}
		}, "", 1, false},
		{"drop a release", func(f *forge, n int) { f.drop(f.mac(n), `"to":"preauthorized"`) }, "an event is missing", 3, false},
		{"forge the server's answer", func(f *forge, n int) { f.device(n).ServerDeviceID = "dev-1000" }, "another answer", 3, false},
		{"forge the number of attempts", func(f *forge, n int) { f.device(n).Attempts = 7 }, "attempt", 2, false},
		{"forge the totals", func(f *forge, _ int) { f.loose, f.sloppy = true, true; f.st.Predicate.Totals.Failed-- }, "", 1, false},
		{"forge the balance", func(f *forge, _ int) { f.loose, f.sloppy = true, true; f.st.Predicate.Balance.KeysDestroyed++ }, "balance", 1, false},
		{"forge the end of a run", func(f *forge, _ int) { f.sloppy = true; f.edit(`"released":"`, `"released":"1`, "run-ended") }, "counts", 1, false},
		{"forge the balance of the close", func(f *forge, _ int) { f.sloppy = true; f.edit(`\"released\":`, `\"released\":1`, "lot-closed") }, "", 1, false},
		{"drop the lot's head from the station log", func(f *forge, _ int) {
			f.leaves = slices.DeleteFunc(f.leaves, func(s string) bool { return strings.Contains(s, `"lot":"lot-1"`) })
		}, "no station log names", 1, false},
		{"name a newer head", func(f *forge, _ int) {
			f.after = func(f *forge) {
				last := f.leaves[len(f.leaves)-1]
				f.leaves = append(f.leaves, setFact(setFact(last, "size", "400"), "root", rootOf(f.leaves, 1)))
				f.resignStation()
			}
		}, "", 1, false},
		{"leave the station log out", func(f *forge, _ int) {
			f.after = func(f *forge) {
				f.st.Predicate.Logs = f.st.Predicate.Logs[1:]
				_ = os.Remove(filepath.Join(f.dir, "log/line-3/leaves.jsonl"))
				_ = os.Remove(filepath.Join(f.dir, "log/line-3/checkpoint"))
			}
		}, "no log of the exporting station", 1, false},
		{"a device twice in one line", func(f *forge, _ int) {
			f.raw = true
			f.write(fileDevices, bytes.Replace(f.read(fileDevices), []byte(`{"algorithm":"ed25519"`), []byte(`{"algorithm":"rsa-2048","algorithm":"ed25519"`), 1))
		}, "form", 1, false},
		{"a member in another case", func(f *forge, _ int) {
			f.raw = true
			f.write(fileDevices, bytes.Replace(f.read(fileDevices), []byte(`"state"`), []byte(`"State"`), 1))
		}, "form", 1, false},
		{"an unknown member", func(f *forge, _ int) {
			f.raw = true
			f.write(fileDevices, bytes.Replace(f.read(fileDevices), []byte(`"updated"`), []byte(`"tested":"yes","updated"`), 1))
		}, "form", 1, false},
		{"an event without a row", func(f *forge, n int) {
			f.edit(fmt.Sprintf(`"row":%d,`, f.device(n).Row), "", f.mac(n), `"to":"staged"`)
		}, "without its row", 2, false},
		{"a signed file more", func(f *forge, _ int) {
			f.after = func(f *forge) { f.write("CERTIFICATE.txt", []byte("all is well\n")) }
		}, "no export writes", 1, false},
		{"forge images.sha256", func(f *forge, _ int) {
			f.after = func(f *forge) { f.write(fileImages, bytes.Replace(f.read(fileImages), []byte("0"), []byte("1"), 1)) }
		}, fileImages, 1, false},
		{"forge devices.csv", func(f *forge, _ int) {
			f.after = func(f *forge) {
				f.write("devices.csv", bytes.Replace(f.read("devices.csv"), []byte("SN0000003"), []byte("SN0000004"), 1))
			}
		}, "devices.csv: does not show", 1, false},
		{"forge README.txt", func(f *forge, _ int) {
			f.after = func(f *forge) { f.write(fileReadme, append(f.read(fileReadme), "Trust us.\n"...)) }
		}, "README.txt: does not show", 1, true},
		{"forge report.html", func(f *forge, _ int) {
			f.after = func(f *forge) {
				f.write("report.html", bytes.Replace(f.read("report.html"), []byte("failed"), []byte("passed"), 1))
			}
		}, "report.html: does not show", 1, true},
		{"forge report.pdf", func(f *forge, _ int) {
			f.after = func(f *forge) { f.write("report.pdf", append(f.read("report.pdf"), "%\n"...)) }
		}, "report.pdf: does not show", 1, true},
		{"forge devices.xlsx", func(f *forge, _ int) {
			f.after = func(f *forge) { f.write("devices.xlsx", append(f.read("devices.xlsx"), 0)) }
		}, "devices.xlsx: does not show", 1, true},
	}
}

// resignStation signs the station log as its leaves are now.
func (f *forge) resignStation() {
	renumber(f.leaves)
	f.write("log/line-3/leaves.jsonl", []byte(strings.Join(f.leaves, "\n")+"\n"))
	h := &f.st.Predicate.Logs[0]
	h.Size, h.Root = int64(len(f.leaves)), rootOf(f.leaves, len(f.leaves))
	signed, err := h.sign(f.key)
	if err != nil {
		f.t.Fatal(err)
	}
	f.write("log/line-3/checkpoint", signed)
}

// reroster makes the plan follow from the list.
func (f *forge) reroster() {
	a := newAgreement(nil)
	a.unique = nil
	for _, d := range f.devices {
		if err := a.device(d); err != nil {
			f.t.Fatal(err)
		}
	}
	i := f.of("lot-planned")[0]
	f.events[i] = setFact(f.events[i], "roster_sha256", fmt.Sprintf("%x", a.roster.Sum(nil)))
}

func (f *forge) subject(name, sum string) {
	for i := range f.st.Subject {
		if f.st.Subject[i].Name == name {
			f.st.Subject[i].Digest = map[string]string{"sha256": sum}
		}
	}
}

// honest makes the bundle that is forged: 20 devices, closed, beside other lots.
func honest(t testing.TB, key crypto.Signer, formats ...string) (*bookLedger, string) {
	b := newBooks(t)
	opt := Options{Signer: key, Station: "line-3", Journal: b, Formats: formats}
	b.fill("lot-0", 5)
	exportLot(t, b, "lot-0", opt)
	b.failAt = 17
	b.fill("lot-1", 20)
	b.close("lot-1")
	dir, _ := exportLot(t, b, "lot-1", opt)
	return b, dir
}

// TestForgeriesAreFoundInTheBundleAlone plays the dishonest factory.
func TestForgeriesAreFoundInTheBundleAlone(t *testing.T) {
	key := stationKey("a")
	_, dir := honest(t, key)
	wantValid(t, verify(t, dir, trusted(key)))
	same := copyBundle(t, dir)
	openForge(t, same, key).seal()
	wantValid(t, verify(t, same, trusted(key))) // the forge itself leaves no trace
	for _, one := range forgeries() {
		t.Run(one.name, func(t *testing.T) {
			for n := range one.variants {
				forged := copyBundle(t, dir)
				f := openForge(t, forged, key)
				one.does(f, n)
				f.seal()
				r := verify(t, forged, trusted(key))
				if r.OK() {
					t.Errorf("variant %d is accepted", n)
				}
				wantProblem(t, r, one.says)
				if testing.Short() {
					break
				}
			}
		})
	}
}

func copyBundle(t testing.TB, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "bundle")
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}
