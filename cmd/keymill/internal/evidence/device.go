package evidence

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"

	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/cmd/keymill/internal/logs"
	"keymill/cmd/keymill/internal/station"
	"keymill/pipeline"
	"keymill/reports"
)

// Endings of the files that belong to a proof FILE.
const (
	headSuffix  = ".head"
	stampSuffix = ".tsr"
)

// Prove makes the proof of a device's release: from a bundle, or for "" from the
// ledger.
func Prove(ctx context.Context, o station.Options, lot, device, bundle string) (*reports.DeviceProof, error) {
	if bundle != "" {
		proof, err := reports.ProveDeviceFromBundle(ctx, bundle, device)
		if err != nil {
			err = Unreadable(ctx, err)
		}
		return proof, err
	}
	known, err := station.OpenView(ctx, o.Settings, lot)
	if err != nil {
		return nil, err
	}
	defer known.Close()
	rec, err := known.Device(ctx, device)
	if err != nil {
		return nil, err
	}
	key, err := o.Signer(ctx, known.Config, logs.New(known.Config.Log, o.Hooks.LogTo))
	if err != nil {
		return nil, err
	}
	defer key.Close()
	signing, err := key.Signing(known.Config, known.Ledger)
	if err != nil {
		return nil, err
	}
	return reports.ProveDevice(ctx, known, lot, rec.Row, signing)
}

// WriteProof writes a proof to FILE, that of the lot's head to FILE.head, and the
// time stamp to FILE.tsr.
func WriteProof(file string, proof *reports.DeviceProof) error {
	for name, data := range map[string][]byte{file: proof.Proof, file + headSuffix: proof.Head, file + stampSuffix: proof.Timestamp} {
		if len(data) == 0 {
			continue
		}
		if err := files.Write(name, func(w io.Writer) error { _, err := w.Write(data); return err }); err != nil {
			return fault.Disk(err)
		}
	}
	return nil
}

// DeviceOptions say which unit is checked, and against what.
type DeviceOptions struct {
	Trust    TrustFiles
	Proof    string   // file
	Image    string   // file; "" compares no key
	Path     string   // where in the image the key lies
	Bundle   string   // a newer bundle; "" for none
	Identity []string // name=value, as the unit itself says
}

// VerifyDevice checks one returned unit against its proof.
func VerifyDevice(ctx context.Context, o DeviceOptions) (*reports.Device, error) {
	trust, err := o.Trust.Load()
	if err != nil {
		return nil, err
	}
	unit := reports.Unit{Bundle: o.Bundle}
	for _, pair := range o.Identity {
		name, value, ok := strings.Cut(pair, "=")
		if !ok || name == "" || value == "" {
			return nil, fault.Usagef("--identity has %q; it is written name=value", pair)
		}
		if unit.Identity == nil {
			unit.Identity = map[string]string{}
		}
		unit.Identity[name] = value
	}
	proof, err := readProof(o.Proof)
	if err != nil {
		return nil, err
	}
	if unit.SPKI, err = keyOfImage(ctx, o.Image, o.Path); err != nil {
		return nil, Unreadable(ctx, err)
	}
	device, err := reports.VerifyUnit(ctx, proof, unit, trust)
	if err != nil {
		return nil, Unreadable(ctx, err)
	}
	return device, nil
}

func readProof(file string) (*reports.DeviceProof, error) {
	var proof reports.DeviceProof
	for name, data := range map[string]*[]byte{file: &proof.Proof, file + headSuffix: &proof.Head, file + stampSuffix: &proof.Timestamp} {
		var err error
		if *data, err = os.ReadFile(name); err != nil && (name == file || !errors.Is(err, fs.ErrNotExist)) {
			return nil, fault.As(fault.Usage, err)
		}
	}
	if len(proof.Head) == 0 { // one that was written to standard output has both
		proof.Proof, proof.Head = reports.SplitProofs(proof.Proof)
	}
	return &proof, nil
}

// keyOfImage reads the SPKI of the key in a unit's image; nil without an image.
func keyOfImage(ctx context.Context, image, path string) ([]byte, error) {
	if image == "" {
		return nil, nil
	}
	golden, closeImage, err := station.OpenImage(ctx, image, "")
	if err != nil {
		return nil, err
	}
	defer closeImage()
	private, err := golden.ReadFile(ctx, path)
	if err != nil {
		return nil, err
	}
	defer clear(private)
	return pipeline.PublicOf(private)
}
