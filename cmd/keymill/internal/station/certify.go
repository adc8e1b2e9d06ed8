package station

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/hsm"
	"keymill/hsm/ca"
	"keymill/pipeline"
)

// authority makes the certificates of a lot's devices.
type authority struct {
	*ca.Authority
	token io.Closer // the CA key's, nil for a file

	mu   sync.Mutex                      // guards made
	made map[string]pipeline.Certificate // by SPKI, until the pipeline asks
}

func (a *authority) Close() error {
	if a == nil || a.token == nil {
		return nil
	}
	return a.token.Close()
}

// certify makes the certificate for a device's key.
func (a *authority) certify(dev *pipeline.Device, public []byte) (*ca.Certificate, error) {
	made, err := a.Issue(dev.AttrMap(), public, time.Now())
	if fault.IsHSM(err) {
		return nil, &pipeline.Outage{Part: pipeline.PartHSM, Err: err, Hint: hsm.Hint(err)}
	}
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(made.DER)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.made[string(public)] = pipeline.Certificate{
		Serial: made.Serial, SHA256: hex.EncodeToString(sum[:]), NotBefore: made.NotBefore, NotAfter: made.NotAfter,
	}
	return made, nil
}

// certifiedAs hands out what certify made, once.
func (a *authority) certifiedAs(public []byte) pipeline.Certificate {
	a.mu.Lock()
	defer a.mu.Unlock()
	made := a.made[string(public)]
	delete(a.made, string(public))
	return made
}

// openAuthority opens the CA that the settings name, nil if they name none, and
// checks what it may do before the first device.
func (o *Options) openAuthority(ctx context.Context, cfg *config.Config, log *slog.Logger) (*authority, error) {
	c := &cfg.Certificates
	if c.CA.Certificate == "" {
		return nil, nil
	}
	chain, key, token, err := o.OpenCA(ctx, cfg, log)
	if err != nil {
		return nil, err
	}
	a := &authority{token: token, made: map[string]pipeline.Certificate{}}
	a.Authority, err = ca.Open(chain, key, certificateProfile(cfg), time.Now())
	if _, isPolicy := errors.AsType[*ca.PolicyError](err); isPolicy && !fault.IsHSM(err) {
		err = fault.As(fault.Usage, fmt.Errorf("certificates: %w", err))
	}
	if err != nil {
		return nil, errors.Join(err, a.Close())
	}
	for _, warning := range a.Warnings {
		log.Warn(warning)
	}
	return a, nil
}

func certificateProfile(cfg *config.Config) ca.Profile {
	c := &cfg.Certificates
	return ca.Profile{Subject: c.Subject, DNS: c.DNS, URI: c.URI, HardwareType: c.HardwareType, HardwareSerial: c.HardwareSerial, Days: c.Days}
}

// OpenCA opens the CA's certificates and its key, which may be in an HSM token;
// token is nil for a file.
func (o *Options) OpenCA(ctx context.Context, cfg *config.Config, log *slog.Logger) (chain []*x509.Certificate, key crypto.Signer, token io.Closer, err error) {
	c := &cfg.Certificates.CA
	text, err := os.ReadFile(c.Certificate)
	if err == nil {
		chain, err = ca.ParseChain(text)
	}
	if err != nil {
		return nil, nil, nil, fault.As(fault.Usage, pipeline.WithHint(fmt.Errorf("certificates.ca.certificate: %w", err),
			"Name a PEM file with the CA's certificate, followed by those above it."))
	}
	if strings.HasPrefix(c.Key, "pkcs11:") {
		signer, err := o.openTokenKey(ctx, cfg, log, "certificates.ca.key", c.Key)
		if err != nil {
			return nil, nil, nil, err
		}
		return chain, signer, signer, nil
	}
	if err := o.Settings.Env.GuardSecret("certificates.ca.key", c.Key); err != nil {
		return nil, nil, nil, err
	}
	key, err = ReadKey(c.Key)
	if err != nil {
		return nil, nil, nil, fault.As(fault.Usage, pipeline.WithHint(fmt.Errorf("certificates.ca.key: %w", err),
			"Name a PEM file with the CA's private key (PKCS#8), or a key in an HSM token: pkcs11:token=factory;object=device-ca."))
	}
	return chain, key, nil, nil
}

// openTokenKey opens a key in an HSM token, whose module and PIN may be those of
// keys.hsm.
func (o *Options) openTokenKey(ctx context.Context, cfg *config.Config, log *slog.Logger, setting, uri string) (*hsm.Signer, error) {
	if err := o.Settings.Env.GuardPIN(setting, uri); err != nil {
		return nil, err
	}
	if first := cfg.Keys.HSM.First(); first != "" {
		var err error
		if uri, err = hsm.Complete(uri, first); err != nil {
			return nil, fault.As(fault.Usage, fmt.Errorf("%s: %w", setting, err))
		}
	}
	signer, err := hsm.OpenSigner(ctx, hsm.Config{
		URI: uri, PIN: o.pin, Log: log, Timeout: cfg.Keys.Timeout, Modules: o.Modules, Tell: o.Hooks.Notice, Limits: hsm.Limits{Sessions: cfg.Keys.Sessions},
	})
	if err != nil {
		return nil, fault.OfHSM(ctx, fmt.Errorf("%s: %w", setting, err))
	}
	return signer, nil
}

// ReadKey reads a private key from PEM.
func ReadKey(path string) (crypto.Signer, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	defer clear(text)
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("there is no private key (PEM) in it")
	}
	defer clear(block.Bytes)
	var key any
	switch block.Type {
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	default:
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	}
	signer, ok := key.(crypto.Signer)
	if err == nil && !ok {
		err = errors.New("the key can't sign")
	}
	return signer, err
}

// openAuthority opens the lot's CA, if it has one, and makes sure that settings
// and injected files agree.
func (l *Lot) openAuthority(ctx context.Context) (err error) {
	if l.authority != nil {
		return nil
	}
	if l.keyless() { // there are no images that certificates could go into
		if l.Config.Certificates.CA.Certificate != "" {
			return fault.As(fault.Usage, pipeline.WithHint(errors.New("a CA is named, and with keys.source manifest there are no images to put certificates into"),
				"Remove certificates.ca."))
		}
		return nil
	}
	injected := l.images.render.Index(pipeline.ContentCertificate) >= 0 || l.images.render.Index(pipeline.ContentCertificateChain) >= 0
	switch has := l.Config.Certificates.CA.Certificate != ""; {
	case injected && !has:
		return fault.As(fault.Usage, pipeline.WithHint(errors.New("image.inject has a certificate, and no CA is named"),
			"Set certificates.ca.certificate and certificates.ca.key."))
	case !injected && has:
		return fault.As(fault.Usage, pipeline.WithHint(errors.New("a CA is named, and image.inject puts no certificate into the image"),
			"Add an entry with `content: certificate` or `content: certificate-chain`, or remove certificates.ca."))
	}
	l.authority, err = l.opts.openAuthority(ctx, l.Config, l.Log)
	l.images.authority = l.authority
	return err
}

// certifiable passes devices on as long as each can get a certificate, with a
// subject of its own.
func (l *Lot) certifiable(devices iter.Seq2[pipeline.Device, error]) iter.Seq2[pipeline.Device, error] {
	if l.authority == nil {
		return devices
	}
	return func(yield func(pipeline.Device, error) bool) {
		now, rows := time.Now(), map[[16]byte]int{}
		for dev, err := range devices {
			if err == nil {
				err = l.subjectOf(&dev, now, rows)
			}
			if !yield(dev, err) || err != nil {
				return
			}
		}
	}
}

func (l *Lot) subjectOf(dev *pipeline.Device, now time.Time, rows map[[16]byte]int) error {
	subject, err := l.authority.Check(dev.AttrMap(), now)
	if err != nil {
		return fault.As(fault.Manifest, pipeline.WithHint(fmt.Errorf("row %d: no certificate can be made: %w; nothing was changed", dev.Row, err),
			"Correct the row, or the templates in the certificates section of the settings."))
	}
	sum := sha256.Sum256([]byte(subject))
	key := [16]byte(sum[:16])
	if row, taken := rows[key]; taken {
		return fault.As(fault.Manifest, pipeline.WithHint(fmt.Errorf("rows %d and %d: their certificates would have the same subject %q; nothing was changed", row, dev.Row, subject),
			"Name an attribute in certificates.subject that is different for each device, such as the serial number."))
	}
	rows[key] = dev.Row
	return nil
}

// caFacts are what the evidence says of the CA.
func (a *authority) facts() map[string]string {
	if a == nil {
		return nil
	}
	sum := sha256.Sum256(a.Certificate().Raw)
	facts := map[string]string{"ca_subject": a.Certificate().Subject.String(), "ca_sha256": hex.EncodeToString(sum[:])}
	if signer, ok := a.token.(*hsm.Signer); ok {
		facts["ca_hsm"] = signer.Custody().TokenSerial + "/" + signer.Custody().TokenLabel
	}
	return facts
}
