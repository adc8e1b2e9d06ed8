package reports

import (
	"encoding/json"
	"fmt"
	"time"

	"keymill/pipeline"
)

// eventLine is what reports read of an event's canonical JSON.
type eventLine struct {
	Action         string            `json:"action"`
	Algorithm      string            `json:"algorithm"`
	Attempt        int               `json:"attempt"`
	Device         map[string]string `json:"device"`
	Facts          map[string]string `json:"facts"`
	From           pipeline.State    `json:"from"`
	Key            string            `json:"key"`
	Lot            string            `json:"lot"`
	OutputSHA256   string            `json:"output_sha256"`
	ReadBack       string            `json:"read_back"`
	Requests       int               `json:"requests"`
	Row            int               `json:"row"`
	Schema         string            `json:"schema"`
	Seq            int64             `json:"seq"`
	Serial         string            `json:"serial"`
	ServerDeviceID string            `json:"server_device_id"`
	SPKISHA256     string            `json:"spki_sha256"`
	Station        string            `json:"station"`
	Time           time.Time         `json:"time"`
	To             pipeline.State    `json:"to"`
}

func parseEvent(canonical []byte) (*eventLine, error) {
	var e eventLine
	if err := json.Unmarshal(canonical, &e); err != nil {
		return nil, fmt.Errorf("event: %w", err)
	}
	return &e, nil
}
