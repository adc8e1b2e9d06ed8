package reports

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"time"

	"keymill/pipeline"
)

// deviceLine is one line of devices.jsonl. Members are in the order of their
// names.
type deviceLine struct {
	Algorithm      string            `json:"algorithm,omitempty"`
	Attempts       int               `json:"attempts"`
	Attributes     map[string]string `json:"attributes,omitempty"`
	AuthSetID      string            `json:"auth_set_id,omitempty"`
	AuthStatus     string            `json:"auth_status,omitempty"`
	HTTPStatus     int               `json:"http_status,omitempty"`
	Identity       map[string]string `json:"identity"`
	KeyStaged      bool              `json:"key_staged,omitempty"` // its key lies in the pack, not in an image that is out
	KeysDestroyed  int               `json:"keys_destroyed"`
	KeysGenerated  int               `json:"keys_generated"`
	OutputBytes    int64             `json:"output_bytes,omitempty"`
	OutputName     string            `json:"output_name,omitempty"`
	OutputSHA256   string            `json:"output_sha256,omitempty"`
	PublicKey      []byte            `json:"public_key,omitempty"` // SPKI, DER; base64 in JSON
	Reason         string            `json:"reason,omitempty"`
	RequestID      string            `json:"request_id,omitempty"`
	Row            int               `json:"row"`
	ServerDeviceID string            `json:"server_device_id,omitempty"`
	SPKISHA256     string            `json:"spki_sha256,omitempty"`
	State          pipeline.State    `json:"state"`
	Station        string            `json:"station,omitempty"`
	Updated        time.Time         `json:"updated"`
}

func lineOf(r *pipeline.Record) deviceLine {
	return deviceLine{
		Algorithm: r.Algorithm, Attempts: r.Attempts, Attributes: attrMap(r.Attrs),
		AuthSetID: r.Auth.AuthSetID, AuthStatus: r.Auth.Status, HTTPStatus: r.Auth.HTTPStatus,
		Identity:  attrMap(r.Identity),
		KeyStaged: keyStaged(r), KeysDestroyed: r.KeysDestroyed, KeysGenerated: r.KeysGenerated,
		OutputBytes: r.Output.Bytes, OutputName: r.Output.Name, OutputSHA256: r.Output.SHA256,
		PublicKey: r.PublicKey, Reason: r.Reason, RequestID: r.Auth.RequestID, Row: r.Row,
		ServerDeviceID: r.Auth.DeviceID, SPKISHA256: r.Fingerprint(), State: r.State,
		Station: r.Station, Updated: r.Updated.UTC(),
	}
}

// parseDevice reads a line of devices.jsonl. A strict one must be exactly as
// jsonlWriter writes it: then no member is there twice, in another case, or
// unknown.
func parseDevice(line []byte, strict bool) (*deviceLine, error) {
	var d deviceLine
	if err := json.Unmarshal(line, &d); err != nil {
		return nil, err
	}
	if !strict {
		return &d, nil
	}
	var again bytes.Buffer
	if err := deviceEncoder(&again).Encode(&d); err != nil {
		return nil, err
	}
	if !bytes.Equal(bytes.TrimSuffix(again.Bytes(), []byte("\n")), line) {
		return nil, errors.New("is not in the form in which devices are written")
	}
	return &d, nil
}

func deviceEncoder(w io.Writer) *json.Encoder {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc
}

// standing is what the line says for the balance.
func (d *deviceLine) standing() standing {
	return standing{d.State, d.KeysGenerated, d.KeysDestroyed, d.KeyStaged, d.AuthStatus != ""}
}

func attrMap(attrs []pipeline.Attr) map[string]string {
	m := make(map[string]string, len(attrs))
	for _, a := range attrs {
		m[a.Name] = a.Value
	}
	return m
}

// jsonlWriter writes devices.jsonl: one JSON object a line, one line a device.
type jsonlWriter struct {
	file *outFile
	enc  *json.Encoder
}

func openJSONL(out *bundleDir, _ *Summary) (deviceWriter, error) {
	file, err := out.create("devices.jsonl")
	if err != nil {
		return nil, err
	}
	return &jsonlWriter{file, deviceEncoder(file)}, nil
}

func (w *jsonlWriter) Device(r *pipeline.Record) error { return w.enc.Encode(lineOf(r)) }
func (w *jsonlWriter) Close() error                    { return w.file.Close() }
func (w *jsonlWriter) Abort()                          { w.file.Abort() }
