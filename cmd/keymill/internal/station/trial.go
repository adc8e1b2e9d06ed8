package station

import (
	"context"

	"keymill/pipeline"
)

// pemBytes are the lengths of private keys as PKCS#8 in PEM, by algorithm.
var pemBytes = map[string]int{
	"ed25519": 119, "ecdsa-p256": 241, "ecdsa-p384": 306, "rsa-2048": 1704, "rsa-3072": 2484, "rsa-4096": 3272,
}

// certificateBytes is about what a certificate takes as PEM.
const certificateBytes = 1000

// confBytes is about what a configuration file takes.
const confBytes = 400

// tryGolden makes the template for an invented device, so that a golden image
// which cannot take the files is refused before there is a lot. The first devices
// whose contents take as many blocks share it.
func (l *Lot) tryGolden(ctx context.Context) error {
	if l.keyless() {
		return nil
	}
	contents, err := l.images.render.Render(inventedDevice(l.images.render), pipeline.KeyFiles{
		PrivateKey: make([]byte, pemBytes[l.Config.Keys.Algorithm]), MenderConf: make([]byte, confBytes), OpenSSLConf: make([]byte, confBytes),
		Certificate: make([]byte, certificateBytes), Chain: make([]byte, certificateBytes),
	})
	if err != nil {
		return nil //nolint:nilerr // a template for the values of real devices; theirs will tell
	}
	lengths := make([]int64, len(contents))
	for i, content := range contents {
		lengths[i] = int64(len(content))
	}
	if _, err := l.images.plan.Prepare(ctx, lengths); err != nil {
		return ImageFault(ctx, l.Config.Image.Golden, err)
	}
	return nil
}

// inventedDevice has a value for each attribute that is used.
func inventedDevice(render *pipeline.Renderer) *pipeline.Device {
	device := &pipeline.Device{}
	for _, name := range render.Attributes() {
		device.Attrs = append(device.Attrs, pipeline.Attr{Name: name, Value: "0123456789"})
	}
	return device
}
