package station_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/station"
	"keymill/cmd/keymill/internal/trial"
	"keymill/pipeline"
	"keymill/pipeline/mender/sandbox"
	"keymill/sources"
)

// publicKeys are n public keys in all the forms that a manifest may have.
func publicKeys(t *testing.T, n int) (texts []string, spkis [][]byte) {
	t.Helper()
	for i := range n {
		public, _, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalPKIXPublicKey(public)
		if err != nil {
			t.Fatal(err)
		}
		text := base64.StdEncoding.EncodeToString(der)
		switch i % 3 {
		case 1:
			text = hex.EncodeToString(der)
		case 2:
			text = `"` + string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})) + `"`
		}
		texts, spkis = append(texts, text), append(spkis, der)
	}
	return texts, spkis
}

func writeKeyManifest(f *trial.Trial, name string, keys []string) {
	f.Write(name, func(w io.Writer) error {
		fmt.Fprintln(w, "mac,serial,Public key")
		for i, key := range keys {
			fmt.Fprintf(w, "02:00:00:00:%02x:%02x,SN%05d,%s\n", i>>8, i&255, i, key)
		}
		return nil
	})
}

// Devices that made their keys themselves are preauthorized in bulk: no golden
// image, no pack, and the books say that no private key was ever here.
func TestKeysOfTheManifest(t *testing.T) {
	const n = 2000
	f := trial.New(t, 1, sandbox.Config{Faults: sandbox.Faults{Fail: 0.01, Stored500: 0.01}, Seed: 2})
	texts, spkis := publicKeys(t, n)
	writeKeyManifest(f, "keys.csv", texts)
	o := station.Options{Settings: f.Settings(map[string]any{
		"keys.source": "manifest", "manifest.public_key": "Public key", "image.golden": nil, "report.formats": "csv",
	})}
	if estimate, err := station.EstimateLot(t.Context(), o, f.Path("keys.csv"), "own"); err != nil || estimate.Devices != n {
		t.Errorf("%+v, %v", estimate, err)
	}
	for range 2 {
		out, err := station.Run(t.Context(), o, f.Path("keys.csv"), "own")
		if err != nil || out.Totals.Released != n || out.Totals.Keys.Imported != n || out.Totals.Keys.Generated != 0 || out.Products != "" {
			t.Fatalf("%+v, %v", out, err)
		}
	}
	for i, spki := range spkis {
		d, ok := f.Box.Find(fmt.Appendf(nil, `{"mac":"02:00:00:00:%02x:%02x"}`, i>>8, i&255))
		if !ok || len(d.AuthSets) != 1 || !bytes.Equal(d.AuthSets[0].SPKI, spki) {
			t.Fatalf("device %d is %+v", i, d)
		}
	}
	if _, err := os.Stat(f.Path("out", "own.pack")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("there is a pack: %v", err)
	}
	l, err := station.OpenPlanned(t.Context(), o, "own")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	here := 0
	for e, err := range l.Ledger.Events(t.Context(), "own") {
		if err != nil {
			t.Fatal(err)
		}
		if text := string(e.Canonical); strings.Contains(text, `"action":"staged"`) || strings.Contains(text, `"action":"released"`) {
			if !strings.Contains(text, `"key":"in-device"`) {
				t.Fatalf("an event says %s", text)
			}
			here++
		}
	}
	if here != 2*n {
		t.Errorf("%d events of keys", here)
	}
	if err := l.Rekey(t.Context(), []string{"SN00001"}); fault.KindOf(err) != fault.Usage {
		t.Errorf("rekey: %v", err)
	}
	done, err := l.Undo(t.Context(), station.UndoOptions{})
	if err != nil || done.Totals.Undone != n || f.Devices() != 0 {
		t.Errorf("undo: %+v, %v; %d devices left", done, err, f.Devices())
	}
}

// Every wrong key is named with its row and column, all at once, and nothing is
// changed; private keys are not quoted.
func TestWrongKeysOfTheManifest(t *testing.T) {
	f := trial.New(t, 1, sandbox.Config{})
	texts, _ := publicKeys(t, 60)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	wrong := []string{
		`"` + string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})) + `"`,
		base64.StdEncoding.EncodeToString(private), hex.EncodeToString(private),
		"", "no key", texts[0][:30], strings.Repeat("ab", 32), "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGJ8",
		texts[0], texts[1], `"-----BEGIN CERTIFICATE-----` + "\nMIIB\n" + `-----END CERTIFICATE-----"`,
	}
	for i, text := range wrong {
		texts[10+2*i] = text
	}
	writeKeyManifest(f, "keys.csv", texts)
	var problems []sources.Problem
	o := station.Options{
		Settings: f.Settings(map[string]any{"keys.source": "manifest", "manifest.public_key": "Public key", "image.golden": nil}),
		Hooks:    station.Hooks{Problem: func(p sources.Problem) { problems = append(problems, p) }},
	}
	_, err = station.Run(t.Context(), o, f.Path("keys.csv"), "own")
	if fault.KindOf(err) != fault.Manifest || f.Devices() != 0 {
		t.Errorf("%v; %d devices on the server", err, f.Devices())
	}
	rows := map[int]bool{}
	for _, p := range problems {
		if p.Warning {
			continue
		}
		rows[p.Row] = true
		if p.Column != "Public key" || p.What == "" || p.Remedy == "" {
			t.Errorf("%+v", p)
		}
		if text := p.String(); strings.Contains(text, wrong[1][40:80]) || strings.Contains(text, wrong[2][60:120]) {
			t.Errorf("a private key is quoted: %s", text)
		}
	}
	for i := range wrong {
		if row := 12 + 2*i; !rows[row] {
			t.Errorf("row %d is not named: %q", row, wrong[i])
		}
	}
	if len(rows) != len(wrong) {
		t.Errorf("%d rows are named", len(rows))
	}
}

// keyFiles writes a lot whose keys lie in files: PKCS#8 and SEC1.
func keyFiles(t *testing.T, f *trial.Trial, n int) {
	t.Helper()
	if err := os.Mkdir(f.Path("keys"), 0o700); err != nil {
		t.Fatal(err)
	}
	f.Manifest("manifest.csv", 0, n)
	for i := range n {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		kind, marshal := "PRIVATE KEY", func() ([]byte, error) { return x509.MarshalPKCS8PrivateKey(key) }
		if i%2 == 1 {
			kind, marshal = "EC PRIVATE KEY", func() ([]byte, error) { return x509.MarshalECPrivateKey(key) }
		}
		der, err := marshal()
		if err != nil {
			t.Fatal(err)
		}
		f.Write(fmt.Sprintf("keys/SN%06d-private.key", i), func(w io.Writer) error {
			return pem.Encode(w, &pem.Block{Type: kind, Bytes: der})
		})
	}
}

// A lot of key files that is cut off in the middle: each file is there, or its
// device is released; in the end all are gone, and the images hold the keys.
func TestKeysOfFiles(t *testing.T) {
	trial.NeedTools(t, "e2fsprogs", "debugfs")
	const n = 60
	f := trial.New(t, 1, sandbox.Config{})
	keyFiles(t, f, n)
	o := station.Options{Settings: f.Settings(map[string]any{
		"keys.source": "files", "keys.files": f.Path("keys") + "/{{.serial}}-private.key", "keys.files_destroy": true,
		"image.format": "pack", "report.formats": "csv",
	})}
	ctx, cut := context.WithCancel(t.Context())
	var moved atomic.Int64
	cutOff := o
	cutOff.Hooks.Begun = func(b station.Begun) {
		b.Line.Reached = func(_, to pipeline.State) {
			if to == pipeline.Released && moved.Add(1) == n/3 {
				cut()
			}
		}
	}
	_, err := station.Run(ctx, cutOff, f.Path("manifest.csv"), "files")
	cut()
	if err == nil {
		t.Fatal("the run was not cut off")
	}
	for i := range n {
		if _, err := os.Stat(f.Path("keys", fmt.Sprintf("SN%06d-private.key", i))); err != nil {
			t.Errorf("after the cut: %v", err) // they go when the lot is settled
		}
	}
	out, err := station.Run(t.Context(), o, f.Path("manifest.csv"), "files")
	if err != nil || out.Totals.Released != n || out.Totals.Keys.Imported != n || out.KeyFiles != (station.KeyFiles{Destroyed: n}) {
		t.Fatalf("%+v, %v", out, err)
	}
	left, err := os.ReadDir(f.Path("keys"))
	if err != nil || len(left) != 0 {
		t.Errorf("%d files left, %v", len(left), err)
	}
	if out, err = station.Run(t.Context(), o, f.Path("manifest.csv"), "files"); err != nil || out.KeyFiles != (station.KeyFiles{}) {
		t.Errorf("again: %+v, %v", out, err)
	}
}

// What is wrong with key files is told before there is a lot, for all rows.
func TestWrongKeyFiles(t *testing.T) {
	trial.NeedTools(t, "e2fsprogs", "debugfs")
	f := trial.New(t, 1, sandbox.Config{})
	keyFiles(t, f, 10)
	file := func(i int) string { return f.Path("keys", fmt.Sprintf("SN%06d-private.key", i)) }
	first, err := os.ReadFile(file(0))
	if err != nil {
		t.Fatal(err)
	}
	for i, content := range map[int][]byte{1: nil, 2: []byte("no key"), 3: first, 4: append(bytes.Clone(first), first...)} {
		if err := errors.Join(os.Remove(file(i)), os.WriteFile(file(i), content, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(file(5)); err != nil {
		t.Fatal(err)
	}
	rows := map[int]string{}
	o := station.Options{
		Settings: f.Settings(map[string]any{"keys.source": "files", "keys.files": f.Path("keys") + "/{{.serial}}-private.key", "image.format": "pack"}),
		Hooks:    station.Hooks{Problem: func(p sources.Problem) { rows[p.Row] = p.What }},
	}
	if _, err := station.Run(t.Context(), o, f.Path("manifest.csv"), "files"); fault.KindOf(err) != fault.Manifest {
		t.Errorf("%v", err)
	}
	for i := 1; i <= 5; i++ {
		if rows[i+2] == "" {
			t.Errorf("row %d is not named: %v", i+2, rows)
		}
	}
	if len(rows) != 5 || f.Devices() != 0 {
		t.Errorf("%v; %d devices", rows, f.Devices())
	}
	// A value that leads elsewhere is no part of a path.
	f.Write("evil.csv", func(w io.Writer) error {
		_, err := io.WriteString(w, "mac,serial\n02:00:00:00:00:01,../keys/SN000006-private.key/..\n")
		return err
	})
	clear(rows)
	if _, err := station.Run(t.Context(), o, f.Path("evil.csv"), "evil"); err == nil {
		t.Error("a path out of the folder passed")
	}
	// Nor may a lot use the keys of another one.
	f.Manifest("two.csv", 8, 2)
	f.Manifest("again.csv", 8, 1)
	if out, err := station.Run(t.Context(), o, f.Path("two.csv"), "two"); err != nil || out.Totals.Released != 2 {
		t.Fatalf("%+v, %v", out, err)
	}
	o.Settings = f.Settings(map[string]any{"keys.source": "files", "keys.files": f.Path("keys") + "/{{.serial}}-private.key", "image.format": "pack", "out": f.Path("out2"), "manifest.identity": "serial"})
	clear(rows)
	if _, err := station.Run(t.Context(), o, f.Path("again.csv"), "again"); fault.KindOf(err) != fault.Manifest {
		t.Errorf("a key of another lot: %v, %v", err, rows)
	}
}
