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
	"text/template"
)

// The Inject.Content that keymill itself provides.
const (
	// ContentPrivateKey stands for the device's private key.
	ContentPrivateKey = "private-key"
	// ContentMenderConf stands for the part of mender.conf that tells the client
	// where in the device's own token its key is.
	ContentMenderConf = "mender-conf"
)

// KeyFiles are the contents that go with a device's key.
type KeyFiles struct {
	PrivateKey []byte // PKCS#8 PEM; nil where the key stays in a token
	MenderConf []byte // JSON; nil where the key is in the image
}

// Inject is one file that every device of a lot gets. Exactly one of Content,
// Template and File says what is in it.
type Inject struct {
	// Path in the image, as the running device sees it: /data/mender/mender-agent.pem
	// lies on the data partition. partition:2:/etc/x addresses a partition by number.
	Path string `koanf:"path" json:"path"`
	// Content is "private-key", the device's key as PKCS#8 PEM, or "mender-conf",
	// for lots whose keys stay in the devices' tokens.
	Content string `koanf:"content" json:"content,omitempty"`
	// Template is a text/template over the manifest's attributes: "{{.serial}}\n".
	// An attribute that the manifest does not have is an error.
	Template string `koanf:"template" json:"template,omitempty"`
	// File is a file on this machine whose content all devices get.
	File string `koanf:"file" json:"file,omitempty"`
	// Mode is the file's permissions in octal, default "0600".
	Mode string `koanf:"mode" json:"mode,omitempty"`
	// UID and GID own the file, default 0.
	UID uint32 `koanf:"uid" json:"uid,omitempty"`
	GID uint32 `koanf:"gid" json:"gid,omitempty"`
}

// DefaultInject puts the key where mender-client looks for it.
func DefaultInject() []Inject {
	return []Inject{{Path: "/data/mender/mender-agent.pem", Content: ContentPrivateKey, Mode: "0600"}}
}

// Renderer makes the contents of a lot's injected files. It is safe for use by
// many goroutines.
type Renderer struct {
	files []renderFile
	sum   string
}

type renderFile struct {
	path     string
	content  string
	fixed    []byte
	template *template.Template
}

// NewRenderer checks the list and reads its fixed files.
func NewRenderer(list []Inject) (*Renderer, error) {
	r := &Renderer{}
	hash := sha256.New()
	for _, inject := range list {
		file, err := newRenderFile(inject)
		if err != nil {
			return nil, err
		}
		r.files = append(r.files, file)
		text, err := json.Marshal(inject)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(hash, "%s\n%x\n", text, sha256.Sum256(file.fixed))
	}
	r.sum = hex.EncodeToString(hash.Sum(nil))
	return r, nil
}

func newRenderFile(inject Inject) (renderFile, error) {
	file := renderFile{path: inject.Path}
	given := 0
	for _, s := range []string{inject.Content, inject.Template, inject.File} {
		if s != "" {
			given++
		}
	}
	switch {
	case inject.Path == "":
		return file, errors.New("inject: an entry has no path")
	case given != 1:
		return file, fmt.Errorf("inject %s: set exactly one of content, template and file", inject.Path)
	case inject.Content != "":
		if inject.Content != ContentPrivateKey && inject.Content != ContentMenderConf {
			return file, fmt.Errorf("inject %s: content %q is unknown; it can be %s or %s",
				inject.Path, inject.Content, ContentPrivateKey, ContentMenderConf)
		}
		file.content = inject.Content
	case inject.File != "":
		data, err := os.ReadFile(inject.File)
		if err != nil {
			return file, fmt.Errorf("inject %s: %w", inject.Path, err)
		}
		file.fixed = data
	default:
		t, err := template.New(inject.Path).Option("missingkey=error").Parse(inject.Template)
		if err != nil {
			return file, fmt.Errorf("inject %s: %w", inject.Path, err)
		}
		file.template = t
	}
	return file, nil
}

// Sum returns the SHA-256 of the list with the content of its fixed files.
func (r *Renderer) Sum() string { return r.sum }

// Index returns which of the files has the given Content, -1 if none does.
func (r *Renderer) Index(content string) int {
	return slices.IndexFunc(r.files, func(f renderFile) bool { return f.content == content })
}

// Render returns the contents of the device's files in the list's order. What
// belongs to the key is not copied: its content is the slice that was passed.
func (r *Renderer) Render(dev *Device, key KeyFiles) ([][]byte, error) {
	contents := make([][]byte, len(r.files))
	var attrs map[string]string
	for i, f := range r.files {
		switch {
		case f.content == ContentPrivateKey:
			contents[i] = key.PrivateKey
		case f.content == ContentMenderConf:
			contents[i] = key.MenderConf
		case f.template == nil:
			contents[i] = f.fixed
		default:
			if attrs == nil {
				attrs = attrMap(dev)
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

func attrMap(dev *Device) map[string]string {
	attrs := make(map[string]string, len(dev.Attrs)+len(dev.Identity))
	for _, a := range dev.Identity {
		attrs[a.Name] = a.Value
	}
	for _, a := range dev.Attrs {
		attrs[a.Name] = a.Value
	}
	return attrs
}
