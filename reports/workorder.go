package reports

import (
	"bytes"
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gowebpki/jcs"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"

	"keymill/pipeline"
)

// workOrderType is the DSSE payload type of work orders.
const workOrderType = "application/vnd.keymill.work-order+json"

// WorkOrder is what a product's owner allows a manufacturer to make, signed by
// the owner's key. Empty lists allow anything.
type WorkOrder struct {
	Order    string    `json:"order"` // its number, unique among the owner's
	Product  string    `json:"product,omitempty"`
	Quantity int       `json:"quantity"` // devices, over all lots of the order
	NotAfter time.Time `json:"not_after"`
	Golden   []string  `json:"golden_sha256,omitempty"`
	Stations []string  `json:"stations,omitempty"`
	Lots     []string  `json:"lots,omitempty"`
	// MACs and Serials are ranges "FIRST-LAST"; serials of one range are equally long.
	MACs    []string `json:"macs,omitempty"`
	Serials []string `json:"serials,omitempty"`
}

// SignWorkOrder returns an order as a DSSE envelope, one line.
func SignWorkOrder(ctx context.Context, order *WorkOrder, key crypto.Signer) ([]byte, error) {
	if err := order.check(); err != nil {
		return nil, err
	}
	raw, err := json.Marshal(order)
	if err != nil {
		return nil, err
	}
	payload, err := jcs.Transform(raw)
	if err != nil {
		return nil, err
	}
	signer, err := dsse.NewEnvelopeSigner(dsseKey{key, key.Public()})
	if err != nil {
		return nil, err
	}
	envelope, err := signer.SignPayload(ctx, workOrderType, payload)
	if err != nil {
		return nil, fmt.Errorf("sign the work order: %w", err)
	}
	return encodeEnvelope(envelope)
}

// OpenWorkOrder verifies an order by the owner's key. It is read strictly:
// a member that isn't known might limit what this program doesn't.
func OpenWorkOrder(ctx context.Context, data []byte, owner crypto.PublicKey) (*WorkOrder, error) {
	var envelope dsse.Envelope
	if err := json.Unmarshal(data, &envelope); err != nil {
		return nil, fmt.Errorf("not a DSSE envelope: %w", err)
	}
	if again, err := encodeEnvelope(&envelope); err != nil || !bytes.Equal(again, data) {
		return nil, errors.New("the envelope is not in the form in which it was written")
	}
	if envelope.PayloadType != workOrderType {
		return nil, fmt.Errorf("it is a %q, not a work order", envelope.PayloadType)
	}
	verifier, err := dsse.NewEnvelopeVerifier(dsseKey{public: owner})
	if err != nil {
		return nil, err
	}
	if _, err := verifier.Verify(ctx, &envelope); err != nil {
		return nil, errors.New("it is not signed by the owner's key")
	}
	payload, err := envelope.DecodeB64Payload()
	if err != nil {
		return nil, err
	}
	order := &WorkOrder{}
	decoder := json.NewDecoder(bytes.NewReader(payload))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(order); err != nil {
		return nil, fmt.Errorf("what the owner signed can't be read: %w", err)
	}
	return order, order.check()
}

// check refuses an order that says nothing, or what can't be compared.
func (w *WorkOrder) check() error {
	switch {
	case strings.TrimSpace(w.Order) == "":
		return errors.New("the work order has no number")
	case w.Quantity < 1:
		return errors.New("the work order allows no device")
	case w.NotAfter.IsZero():
		return errors.New("the work order has no end")
	}
	for _, sum := range w.Golden {
		if !sha256Form.MatchString(sum) {
			return fmt.Errorf("%q is no SHA-256", sum)
		}
	}
	for _, list := range [][]string{w.MACs, w.Serials} {
		for _, text := range list {
			if _, _, err := bounds(text); err != nil {
				return err
			}
		}
	}
	for _, text := range w.MACs {
		first, last, _ := bounds(text)
		if macNumber(first) < 0 || macNumber(last) < macNumber(first) {
			return fmt.Errorf("%q is no range of MAC addresses", text)
		}
	}
	return nil
}

var sha256Form = regexp.MustCompile(`^[0-9a-f]{64}$`) // never changed

// bounds takes "FIRST-LAST" apart, of two equally long halves.
func bounds(text string) (first, last string, err error) {
	half := len(text) / 2
	if len(text) < 3 || len(text)%2 == 0 || text[half] != '-' || text[:half] > text[half+1:] {
		return "", "", fmt.Errorf("%q is no range FIRST-LAST of two equally long parts", text)
	}
	return text[:half], text[half+1:], nil
}

// macNumber returns a MAC address as a number, -1 if it is none.
func macNumber(mac string) int64 {
	digits := strings.NewReplacer(":", "", "-", "", ".", "").Replace(mac)
	n, err := strconv.ParseUint(digits, 16, 63)
	if err != nil || len(digits) != 12 {
		return -1
	}
	return int64(n)
}

// AllowsLot reports what of a lot the order doesn't allow. made are the devices
// that the order's other lots have used.
func (w *WorkOrder) AllowsLot(lot *pipeline.Lot, station string, made int, now time.Time) error {
	switch {
	case now.After(w.NotAfter):
		return fmt.Errorf("the work order %s ended on %s", w.Order, w.NotAfter.Format(time.RFC3339))
	case len(w.Golden) > 0 && !slices.Contains(w.Golden, lot.GoldenSHA256):
		return fmt.Errorf("the work order %s is for another golden image than %s", w.Order, lot.GoldenSHA256)
	case len(w.Stations) > 0 && !slices.Contains(w.Stations, station):
		return fmt.Errorf("the work order %s is for the stations %s, not for %s", w.Order, strings.Join(w.Stations, ", "), station)
	case len(w.Lots) > 0 && !slices.Contains(w.Lots, lot.Name):
		return fmt.Errorf("the work order %s is for the lots %s, not for %s", w.Order, strings.Join(w.Lots, ", "), lot.Name)
	case lot.Devices > w.Quantity-made:
		return fmt.Errorf("the work order %s allows %d devices, of which %d are used, and the lot has %d", w.Order, w.Quantity, made, lot.Devices)
	}
	return nil
}

// AllowsDevice reports what of a device the order doesn't allow: its MAC
// addresses and its serial number must lie in the ranges, where there are any.
func (w *WorkOrder) AllowsDevice(dev *pipeline.Device) error {
	attrs := dev.AttrMap()
	if len(w.Serials) > 0 && !slices.ContainsFunc(w.Serials, func(text string) bool {
		first, last, err := bounds(text)
		serial := attrs["serial"]
		return err == nil && len(serial) == len(first) && serial >= first && serial <= last
	}) {
		return fmt.Errorf("row %d: the serial number %q lies outside the work order %s", dev.Row, attrs["serial"], w.Order)
	}
	if len(w.MACs) == 0 {
		return nil
	}
	found := false
	for name, value := range attrs {
		mac := macNumber(value)
		if mac < 0 || !strings.Contains(strings.ToLower(name), "mac") {
			continue
		}
		found = true
		if !slices.ContainsFunc(w.MACs, func(text string) bool {
			first, last, err := bounds(text)
			return err == nil && mac >= macNumber(first) && mac <= macNumber(last)
		}) {
			return fmt.Errorf("row %d: the MAC address %q lies outside the work order %s", dev.Row, value, w.Order)
		}
	}
	if !found {
		return fmt.Errorf("row %d: no MAC address, and the work order %s limits them", dev.Row, w.Order)
	}
	return nil
}
