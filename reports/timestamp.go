package reports

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"time"

	"keymill/pipeline"
)

// Object identifiers of RFC 3161 and of the CMS (RFC 5652) that it uses.
var (
	oidSHA256     = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
	oidSHA384     = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 2}
	oidSHA512     = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 3}
	oidSignedData = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
	oidTSTInfo    = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 1, 4}
	oidType       = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 3} // attribute content-type
	oidDigest     = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 4} // attribute message-digest
)

type algorithmID struct {
	Algorithm  asn1.ObjectIdentifier
	Parameters asn1.RawValue `asn1:"optional"`
}

type messageImprint struct {
	HashAlgorithm algorithmID
	HashedMessage []byte
}

type timestampRequest struct {
	Version int
	Imprint messageImprint
	Nonce   *big.Int
	CertReq bool
}

type timestampResponse struct {
	Status struct {
		Status int
		Text   asn1.RawValue  `asn1:"optional"`
		Fail   asn1.BitString `asn1:"optional"`
	}
	Token asn1.RawValue `asn1:"optional"`
}

// maxTimestamp bounds an authority's answer; tokens with their certificates
// take some KiB.
const maxTimestamp = 256 << 10

// TimestampAuthority returns what Options.Timestamp takes: it asks the RFC 3161
// authority at url for a time stamp of data, and checks that the answer is one
// for these data. Whether the authority is to be trusted, the auditor decides.
func TimestampAuthority(client *http.Client, url string) func(ctx context.Context, data []byte) ([]byte, error) {
	return func(ctx context.Context, data []byte) ([]byte, error) {
		answer, err := askTimestamp(ctx, client, url, data)
		if err != nil {
			return nil, &pipeline.Outage{Part: pipeline.PartServer, Err: fmt.Errorf("time stamp from %s: %w", url, err),
				Hint: "check audit.timestamp_url, or leave it out: time stamps are optional"}
		}
		return answer, nil
	}
}

func askTimestamp(ctx context.Context, client *http.Client, url string, data []byte) ([]byte, error) {
	nonce, err := rand.Int(rand.Reader, new(big.Int).Lsh(one, 63))
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(data)
	query, err := asn1.Marshal(timestampRequest{1, messageImprint{algorithmID{Algorithm: oidSHA256, Parameters: asn1.NullRawValue}, sum[:]}, nonce, true})
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(query))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/timestamp-query")
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxTimestamp+1))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK || len(answer) > maxTimestamp {
		return nil, fmt.Errorf("it answered %s with %d bytes", resp.Status, len(answer))
	}
	stamped, err := parseTimestamp(answer)
	if err != nil {
		return nil, err
	}
	if stamped.info.Nonce == nil || stamped.info.Nonce.Cmp(nonce) != 0 {
		return nil, errors.New("the answer is one to another request")
	}
	return answer, stamped.covers(data)
}

// timestampInfo is the TSTInfo of RFC 3161, section 2.4.2.
type timestampInfo struct {
	Version    int
	Policy     asn1.ObjectIdentifier
	Imprint    messageImprint
	Serial     *big.Int
	GenTime    asn1.RawValue // GeneralizedTime, perhaps with a fraction
	Accuracy   accuracy      `asn1:"optional"`
	Ordering   bool          `asn1:"optional"`
	Nonce      *big.Int      `asn1:"optional"`
	TSA        asn1.RawValue `asn1:"optional,tag:0,explicit"`
	Extensions asn1.RawValue `asn1:"optional,tag:1"`
}

type accuracy struct {
	Seconds int `asn1:"optional"`
	Millis  int `asn1:"optional,tag:0"`
	Micros  int `asn1:"optional,tag:1"`
}

// timestamp is a parsed answer of an authority; nothing of it is verified.
type timestamp struct {
	info    timestampInfo
	time    time.Time
	content []byte // DER of info, which is what is signed
	signed  signedData
}

// covers checks that the time stamp is for data.
func (t *timestamp) covers(data []byte) error {
	sum := sha256.Sum256(data)
	if !t.info.Imprint.HashAlgorithm.Algorithm.Equal(oidSHA256) || !bytes.Equal(t.info.Imprint.HashedMessage, sum[:]) {
		return errors.New("the time stamp is for something else")
	}
	return nil
}

// unmarshal reads all of der.
func unmarshal(der []byte, v any, what string) error {
	rest, err := asn1.Unmarshal(der, v)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if len(rest) > 0 {
		return fmt.Errorf("%s: %d bytes follow", what, len(rest))
	}
	return nil
}

func parseTimestamp(answer []byte) (*timestamp, error) {
	var resp timestampResponse
	if err := unmarshal(answer, &resp, "time stamp answer"); err != nil {
		return nil, err
	}
	if resp.Status.Status != 0 && resp.Status.Status != 1 { // granted, granted with modifications
		return nil, fmt.Errorf("the authority refused (status %d)", resp.Status.Status)
	}
	var outer struct {
		Type    asn1.ObjectIdentifier
		Content asn1.RawValue `asn1:"explicit,tag:0"`
	}
	if err := unmarshal(resp.Token.FullBytes, &outer, "time stamp token"); err != nil {
		return nil, err
	}
	if !outer.Type.Equal(oidSignedData) {
		return nil, errors.New("the time stamp token is not signed data")
	}
	t := &timestamp{}
	if err := unmarshal(outer.Content.Bytes, &t.signed, "signed data"); err != nil {
		return nil, err
	}
	if !t.signed.Encapsulated.Type.Equal(oidTSTInfo) {
		return nil, errors.New("what is signed is not a time stamp")
	}
	if err := unmarshal(t.signed.Encapsulated.Content.Bytes, &t.content, "time stamp content"); err != nil {
		return nil, err
	}
	if err := unmarshal(t.content, &t.info, "time stamp"); err != nil {
		return nil, err
	}
	var err error
	if t.time, err = time.Parse("20060102150405.999999999Z", string(t.info.GenTime.Bytes)); err != nil {
		return nil, fmt.Errorf("a time stamp's time cannot be %.30q", t.info.GenTime.Bytes)
	}
	return t, nil
}
