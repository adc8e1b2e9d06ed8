package pipeline

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"text/template"
)

// The Inject.Content that keymill itself provides.
const (
	// ContentPrivateKey stands for the device's private key.
	ContentPrivateKey = "private-key"
	// ContentMenderConf stands for the part of mender.conf that tells the client
	// where in the device's own token its key is.
	ContentMenderConf = "mender-conf"
	// ContentOpenSSLConf stands for the openssl.cnf by which the device's OpenSSL
	// finds its token, for lots whose keys stay there.
	ContentOpenSSLConf = "openssl-conf"
	// ContentCertificate stands for the device's X.509 certificate, and
	// ContentCertificateChain for it with those of the CAs above it, without the root.
	ContentCertificate      = "certificate"
	ContentCertificateChain = "certificate-chain"
)

// KeyFiles are the contents that go with a device's key.
type KeyFiles struct {
	PrivateKey  []byte // PKCS#8 PEM; nil where the key stays in a token
	MenderConf  []byte // JSON; nil where the key is in the image
	OpenSSLConf []byte // nil where the client is told of an engine
	// Certificate and Chain are PEM; nil where devices get none.
	Certificate, Chain []byte
}

// Inject is one thing that every device of a lot gets. Exactly one of Content,
// Template, File, Link and Directory says what it is.
type Inject struct {
	// Path in the image, as the running device sees it: /data/mender/mender-agent.pem
	// lies on the data partition. partition:2:/etc/x addresses a partition by number.
	Path string `koanf:"path" json:"path"`
	// Content is "private-key", the device's key as PKCS#8 PEM, or, for lots whose
	// keys stay in the devices' tokens, "mender-conf" or "openssl-conf"; "certificate"
	// and "certificate-chain" are its X.509 certificate, see certificates.
	Content string `koanf:"content" json:"content,omitempty"`
	// Template is a text/template over the manifest's attributes: "{{.serial}}\n".
	// An attribute that the manifest does not have is an error.
	Template string `koanf:"template" json:"template,omitempty"`
	// File is a file on this machine whose content all devices get.
	File string `koanf:"file" json:"file,omitempty"`
	// Link makes a symbolic link that leads there.
	Link string `koanf:"link" json:"link,omitempty"`
	// Directory makes a directory.
	Directory bool `koanf:"directory" json:"directory,omitempty"`
	// Mode is the permissions in octal, default "0600" for files and "0755" for
	// directories.
	Mode string `koanf:"mode" json:"mode,omitempty"`
	// UID and GID own it, default 0.
	UID uint32 `koanf:"uid" json:"uid,omitempty"`
	GID uint32 `koanf:"gid" json:"gid,omitempty"`
	// XAttrs are extended attributes: {security.selinux: "system_u:object_r:.."}.
	XAttrs map[string]string `koanf:"xattrs" json:"xattrs,omitempty"`
}

// PerDevice reports whether its content differs from device to device.
func (i *Inject) PerDevice() bool { return i.Content != "" || i.Template != "" }

// DefaultInject puts the key where mender-client looks for it.
func DefaultInject() []Inject {
	return []Inject{{Path: "/data/mender/mender-agent.pem", Content: ContentPrivateKey, Mode: "0600"}}
}

// TokenInject puts the part of mender.conf that names the key's place in the
// device's token where mender-client looks for its own settings, and beside it
// an openssl.cnf for devices that reach their tokens by a provider.
func TokenInject(provider bool) []Inject {
	list := []Inject{{Path: "/data/mender/mender.conf", Content: ContentMenderConf, Mode: "0600"}}
	if provider {
		list = append(list, Inject{Path: "/data/mender/openssl.cnf", Content: ContentOpenSSLConf, Mode: "0644"})
	}
	return list
}

// Renderer makes the contents of a lot's injected files. It is safe for use by
// many goroutines.
type Renderer struct {
	files []renderFile // those whose content differs between devices
	fixed [][]byte     // by the list's index: contents that all devices get
	sum   string
}

type renderFile struct {
	path     string
	content  string
	template *template.Template
}

// NewRenderer checks the list and reads its fixed files.
func NewRenderer(list []Inject) (*Renderer, error) {
	r := &Renderer{fixed: make([][]byte, len(list))}
	hash := sha256.New()
	for i := range list {
		if err := list[i].check(); err != nil {
			return nil, err
		}
		if err := r.add(i, &list[i]); err != nil {
			return nil, fmt.Errorf("inject %s: %w", list[i].Path, err)
		}
		text, err := json.Marshal(list[i])
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(hash, "%s\n%x\n", text, sha256.Sum256(r.fixed[i]))
	}
	r.sum = hex.EncodeToString(hash.Sum(nil))
	return r, nil
}

var contents = []string{ContentPrivateKey, ContentMenderConf, ContentOpenSSLConf, ContentCertificate, ContentCertificateChain}

// check refuses entries that say nothing, or more than one thing.
func (i *Inject) check() error {
	given := 0
	for _, is := range []bool{i.Content != "", i.Template != "", i.File != "", i.Link != "", i.Directory} {
		if is {
			given++
		}
	}
	switch {
	case i.Path == "":
		return errors.New("inject: an entry has no path")
	case given != 1:
		return fmt.Errorf("inject %s: set exactly one of content, template, file, link and directory", i.Path)
	case i.Content != "" && !slices.Contains(contents, i.Content):
		return fmt.Errorf("inject %s: content %q is unknown; it can be %s", i.Path, i.Content, strings.Join(contents, ", "))
	}
	return nil
}

func (r *Renderer) add(index int, inject *Inject) (err error) {
	switch {
	case inject.File != "":
		r.fixed[index], err = os.ReadFile(inject.File)
		return err
	case !inject.PerDevice():
		return nil
	}
	file := renderFile{path: inject.Path, content: inject.Content}
	if inject.Template != "" {
		file.template, err = template.New(inject.Path).Option("missingkey=error").Parse(inject.Template)
	}
	r.files = append(r.files, file)
	return err
}

// Fixed returns the content of the list's entry that all devices get; nil for
// entries without.
func (r *Renderer) Fixed(index int) []byte { return r.fixed[index] }

// Sum returns the SHA-256 of the list with the content of its fixed files.
func (r *Renderer) Sum() string { return r.sum }

// Index returns which of the rendered contents has the given Content, -1 if none
// does.
func (r *Renderer) Index(content string) int {
	return slices.IndexFunc(r.files, func(f renderFile) bool { return f.content == content })
}

// Render returns the contents of the files that differ from device to device,
// in the list's order. What belongs to the key is not copied: its content is the slice that was passed.
func (r *Renderer) Render(dev *Device, key KeyFiles) ([][]byte, error) {
	contents := make([][]byte, len(r.files))
	var attrs map[string]string
	for i, f := range r.files {
		switch f.content {
		case ContentPrivateKey:
			contents[i] = key.PrivateKey
		case ContentMenderConf:
			contents[i] = key.MenderConf
		case ContentOpenSSLConf:
			contents[i] = key.OpenSSLConf
		case ContentCertificate:
			contents[i] = key.Certificate
		case ContentCertificateChain:
			contents[i] = key.Chain
		default:
			if attrs == nil {
				attrs = dev.AttrMap()
			}
			var out bytes.Buffer
			if err := f.template.Execute(&out, attrs); err != nil {
				return nil, fmt.Errorf("the template for %s: %w", f.path, err)
			}
			contents[i] = out.Bytes()
		}
	}
	return contents, nil
}

// AttrMap returns identity and attributes by name, as templates see them.
func (dev *Device) AttrMap() map[string]string {
	attrs := make(map[string]string, len(dev.Attrs)+len(dev.Identity))
	for _, a := range dev.Identity {
		attrs[a.Name] = a.Value
	}
	for _, a := range dev.Attrs {
		attrs[a.Name] = a.Value
	}
	return attrs
}
