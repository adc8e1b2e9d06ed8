package reports

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"keymill/pipeline"
)

// findRow finds a device in devices.jsonl by an identity value or its serial.
func findRow(dir, device string) (int, error) {
	lines, err := openLines(dir, fileDevices)
	if err != nil {
		return 0, err
	}
	defer lines.close()
	quoted, err := json.Marshal(device)
	if err != nil {
		return 0, err
	}
	lower := bytes.ToLower(quoted)
	for {
		line, err := lines.next()
		if errors.Is(err, io.EOF) {
			return 0, pipeline.WithHint(fmt.Errorf("no device %q in this bundle", device),
				"give one of its identity's values, or its serial")
		}
		if err != nil {
			return 0, err
		}
		if !bytes.Contains(bytes.ToLower(line), lower) {
			continue // decoding is what takes time
		}
		var d deviceLine
		if err := json.Unmarshal(line, &d); err != nil {
			return 0, flawed(fileDevices, "line %d: %v", lines.number, err)
		}
		if d.is(device) {
			return d.Row, nil
		}
	}
}

// is reports whether a device is meant by a name. Letters may be of either case
// where the recorded value is lower case, as MACs are.
func (d *deviceLine) is(name string) bool {
	same := func(v string) bool { return v == name || v == strings.ToLower(name) }
	for _, v := range d.Identity {
		if same(v) {
			return true
		}
	}
	serial, ok := d.Attributes["serial"]
	return ok && same(serial)
}

// bundleHeads reads the statement's heads without verifying anything: what is
// made from them is checked against a signed checkpoint.
func bundleHeads(dir string) ([]LogHead, error) {
	st, err := bundleStatement(dir)
	if err != nil {
		return nil, err
	}
	return st.Predicate.Logs, nil
}
