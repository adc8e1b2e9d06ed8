package config

import (
	"strings"

	"keymill/pipeline"
)

// Flag is a configuration setting that a verb takes as a flag.
type Flag struct {
	Key   string
	Usage string
	Count bool // a number
}

// Flags are the flags that set configuration, by flag name. The names are a
// contract with people's scripts.
func Flags() map[string]Flag {
	return map[string]Flag{
		"ledger":         {Key: "ledger", Usage: "ledger file"},
		"server":         {Key: "server.url", Usage: "URL of the Mender server"},
		"token-file":     {Key: "server.token_file", Usage: "file that holds the server's token"},
		"ca-file":        {Key: "server.ca_file", Usage: "PEM file of a private CA to trust"},
		"in-flight":      {Key: "server.in_flight", Usage: "most requests under way at once", Count: true},
		"give-up":        {Key: "server.give_up", Usage: "how long the server may be down before the run stops (default 15m)"},
		"on-conflict":    {Key: "server.on_conflict", Usage: "when the server holds another key: fail, replace-pending or replace"},
		"golden":         {Key: "image.golden", Usage: "golden image"},
		"partition":      {Key: "image.partition", Usage: "data partition of the golden image: number, label or PARTUUID"},
		"format":         {Key: "image.format", Usage: "form of the products: " + strings.Join(ImageFormats(), ", ")},
		"out":            {Key: "out", Usage: "folder of the lot's products (default out/LOT)"},
		"keys":           {Key: "keys.source", Usage: "where keys come from: software, hsm, hsm-entropy, token, files or manifest"},
		"algorithm":      {Key: "keys.algorithm", Usage: "ed25519, ecdsa-p256, ecdsa-p384, rsa-2048, rsa-3072 or rsa-4096"},
		"hsm":            {Key: "keys.hsm", Usage: "the token as an RFC 7512 URI with module-path and pin-source"},
		"listen":         {Key: "station.listen", Usage: "address of the page (default 127.0.0.1:8090)"},
		"workers":        {Key: "workers", Usage: "devices under way at once", Count: true},
		"expect":         {Key: "manifest.expect", Usage: "control total: number of devices that the manifest must have", Count: true},
		"sheet":          {Key: "manifest.sheet", Usage: "sheet of the workbook"},
		"mac":            {Key: "allocate.macs", Usage: "ranges to take MAC addresses from, in this order, parted by commas"},
		"mac-attributes": {Key: "allocate.mac_attributes", Usage: "attributes that get an address each, parted by commas (default mac)"},
		"serial":         {Key: "allocate.serial", Usage: "pattern of serial numbers, such as 'KM{yy}{ww}-{seq:5}'"},
		"serial-first":   {Key: "allocate.serial_first", Usage: "lowest sequence number to use", Count: true},
		"older-than":     {Key: "retention.older_than", Usage: "age of closed lots whose keys are destroyed, such as 90d"},
		"log-format":     {Key: "log.format", Usage: "text or json"},
		"log-level":      {Key: "log.level", Usage: "debug, info, warn or error"},
	}
}

// OfLot makes what a lot was planned with the default for going on.
func OfLot(lot *pipeline.Lot) map[string]any {
	if lot == nil {
		return nil
	}
	settings := map[string]any{
		"server.url": lot.Server, "image.golden": lot.GoldenPath, "image.format": lot.Format,
		"keys.source": lot.Keys, "keys.algorithm": lot.Algorithm, "out": lot.Out,
	}
	for name, value := range settings {
		if value == "" { // a lot without images has no golden one
			delete(settings, name)
		}
	}
	return settings
}
