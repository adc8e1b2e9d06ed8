package station

import (
	"context"
	"time"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/hsm"
	"keymill/imaging"
	"keymill/pipeline"
)

// Template describes what an injection changes in the configured golden image,
// for a key of the configured kind and an invented device.
func (o *Options) Template(ctx context.Context, cfg *config.Config) (*imaging.Description, error) {
	l := &Lot{opts: o, Config: cfg, Log: o.log(cfg)}
	defer l.Close()
	if err := l.openGolden(ctx, time.Now().UTC().Truncate(time.Second)); err != nil {
		return nil, err
	}
	var err error
	if l.keys, err = o.openKeys(ctx, cfg, l.Log); err != nil {
		return nil, err
	}
	key, err := sampleKey(ctx, l.keys, cfg.Keys.Device)
	if err != nil {
		return nil, err
	}
	defer hsm.Wipe(key.PrivateKey)
	key.Certificate, key.Chain = make([]byte, certificateBytes), make([]byte, certificateBytes)
	contents, err := l.images.render.Render(inventedDevice(l.images.render), key)
	if err != nil {
		return nil, fault.As(fault.Usage, err)
	}
	overlay, err := l.images.plan.Overlay(ctx, contents)
	if err != nil {
		return nil, ImageFault(ctx, cfg.Image.Golden, err)
	}
	defer Wipe(overlay)
	return overlay.Template.Describe(), nil
}

// sampleKey is what an invented device gets. None is made that would stay in
// its token.
func sampleKey(ctx context.Context, keys keySource, device config.DeviceTokenConfig) (key pipeline.KeyFiles, err error) {
	if o := keys.Origin(); o.Mode == hsm.ModeToken {
		uri := hsm.URI{Token: o.TokenLabel, Serial: o.TokenSerial, Object: "0123456789", ID: make([]byte, 16), Type: "private"}
		return deviceFiles(device, uri.String())
	}
	key.PrivateKey, _, err = keys.Generate(ctx, "plan")
	return key, err
}
