package reports

import (
	"fmt"
	"strconv"
	"time"

	"keymill/pipeline"
)

// eventLine is what reports read of an event's canonical JSON.
type eventLine struct {
	Action         string
	Algorithm      string
	Attempt        int64
	CertSHA256     string
	Device         pipeline.Identity // by name
	Epoch          int64
	Facts          []pipeline.Attr // by name
	From           pipeline.State
	HTTPStatus     int64
	Key            string
	Lot            string
	AuthSetID      string
	OutputBytes    int64
	OutputName     string
	OutputSHA256   string
	ReadBack       string
	Reason         string
	RequestID      string
	Requests       int64
	Row            int
	Run            int64
	Schema         string
	Seq            int64
	Serial         string
	ServerDeviceID string
	SPKISHA256     string
	Station        string
	Time           time.Time
	To             pipeline.State
	Unit           int64
}

// parseEvent reads an event, and refuses what is not canonical: then every
// parser reads the same from it. It is called for each event of a lot, so it
// reads them in one pass, without reflection.
func parseEvent(line []byte) (*eventLine, error) {
	var e eventLine
	c := &canon{in: string(line)}
	if err := c.whole(func() error { return c.members(func(name string) error { return e.member(c, name) }) }); err != nil {
		return nil, fmt.Errorf("event: %w", err)
	}
	return &e, nil
}

// fact returns a fact by its name, "" if there is none.
func (e *eventLine) fact(name string) string {
	for _, a := range e.Facts {
		if a.Name == name {
			return a.Value
		}
	}
	return ""
}

// member reads the value of one of the event's members.
func (e *eventLine) member(c *canon, name string) (err error) {
	if text := e.text(name); text != nil {
		*text, err = c.unquoted()
		return err
	}
	if number := e.integer(name); number != nil {
		*number, err = c.number()
		return err
	}
	switch name {
	case "device":
		e.Device, err = c.attrs()
	case "facts":
		e.Facts, err = c.attrs()
	case "row":
		var row int64
		row, err = c.number()
		e.Row = int(row)
	case "time":
		var text string
		if text, err = c.unquoted(); err == nil {
			e.Time, err = time.Parse(timeForm, text)
		}
	default:
		err = c.value(1)
	}
	return err
}

// integer returns where a member that is a number goes, nil for others.
func (e *eventLine) integer(name string) *int64 {
	switch name {
	case "attempt":
		return &e.Attempt
	case "epoch":
		return &e.Epoch
	case "http_status":
		return &e.HTTPStatus
	case "output_bytes":
		return &e.OutputBytes
	case "requests":
		return &e.Requests
	case "run":
		return &e.Run
	case "seq":
		return &e.Seq
	case "unit":
		return &e.Unit
	}
	return nil
}

// text returns where a member that is a string goes, nil for others.
func (e *eventLine) text(name string) *string {
	switch name {
	case "action":
		return &e.Action
	case "algorithm":
		return &e.Algorithm
	case "auth_set_id":
		return &e.AuthSetID
	case "cert_sha256":
		return &e.CertSHA256
	case "from":
		return (*string)(&e.From)
	case "key":
		return &e.Key
	case "lot":
		return &e.Lot
	case "output_name":
		return &e.OutputName
	case "output_sha256":
		return &e.OutputSHA256
	case "read_back":
		return &e.ReadBack
	case "reason":
		return &e.Reason
	case "request_id":
		return &e.RequestID
	case "schema":
		return &e.Schema
	case "serial":
		return &e.Serial
	case "server_device_id":
		return &e.ServerDeviceID
	case "spki_sha256":
		return &e.SPKISHA256
	case "station":
		return &e.Station
	case "to":
		return (*string)(&e.To)
	}
	return nil
}

// unquoted takes a string and returns what it means.
func (c *canon) unquoted() (string, error) {
	text, err := c.text()
	if err != nil {
		return "", err
	}
	return unescape(text), nil
}

// number takes an integer.
func (c *canon) number() (int64, error) {
	start := c.at
	if err := c.integer(); err != nil {
		return 0, err
	}
	return strconv.ParseInt(c.in[start:c.at], 10, 64)
}

// attrs takes an object whose values are strings.
func (c *canon) attrs() (attrs []pipeline.Attr, err error) {
	err = c.members(func(name string) error {
		value, err := c.unquoted()
		attrs = append(attrs, pipeline.Attr{Name: unescape(name), Value: value})
		return err
	})
	return attrs, err
}
