// Package config is everything that can be set: from flags, environment,
// keymill.yaml and what a lot was planned with. The comments of Config are the
// manual; go generate makes the example file and the schema of them.
package config

import (
	"fmt"
	"reflect"
	"strings"
	"time"

	"keymill/pipeline"
)

// Config is everything that can be set. Flags beat environment variables
// (KEYMILL_SERVER_URL for server.url) beat keymill.yaml beat what an existing
// lot was planned with beat the defaults. Secrets are never in flags.
type Config struct {
	Server ServerConfig `koanf:"server"`
	// Servers are further servers or tenants by name, each with the settings of
	// server. Where a URL is asked for (--server staging), the name will do. The
	// lot remembers it.
	//
	//	servers:
	//	  staging: {url: https://staging.example.com, token_file: staging-token}
	Servers      map[string]ServerConfig `koanf:"servers"`
	Manifest     ManifestConfig          `koanf:"manifest"`
	Keys         KeysConfig              `koanf:"keys"`
	Certificates CertificatesConfig      `koanf:"certificates"`
	Image        ImageConfig             `koanf:"image"`
	Report       ReportConfig            `koanf:"report"`
	Audit        AuditConfig             `koanf:"audit"`
	Log          LogConfig               `koanf:"log"`
	Batch        BatchConfig             `koanf:"batch"`
	Metrics      MetricsConfig           `koanf:"metrics"`
	Telemetry    TelemetryConfig         `koanf:"telemetry"`
	Notify       NotifyConfig            `koanf:"notify"`
	Allocate     AllocateConfig          `koanf:"allocate"`
	Retention    RetentionConfig         `koanf:"retention"`
	Backup       BackupConfig            `koanf:"backup"`
	Station      StationConfig           `koanf:"station"`
	Label        LabelConfig             `koanf:"label"`

	// Ledger is the database of lots, device records and events.
	Ledger string `koanf:"ledger"`
	// Out is the folder of the lot's products. Default: out/LOT.
	Out string `koanf:"out"`
	// Workers is how many devices are under way at once. More of them share a
	// disk sync; CPU, requests and images have limits of their own.
	Workers int `koanf:"workers"`

	From map[string]string // by setting: where it was set; the default where it is missing
}

// ServerConfig is the Mender server.
type ServerConfig struct {
	// URL of the server, https only.
	URL string `koanf:"url" init:"set"`
	// TokenFile holds a personal access token or a JWT. It is read again when
	// the server refuses the token. Without it: the systemd credential
	// mender-token, else the environment variable KEYMILL_TOKEN.
	//
	//	token_file: mender-token
	TokenFile string `koanf:"token_file"`
	// User and PasswordFile log in instead of a token.
	User         string `koanf:"user"`
	PasswordFile string `koanf:"password_file"`
	// CAFile holds PEM certificates of a private CA, trusted beside the system's.
	CAFile string `koanf:"ca_file"`
	// InFlight is the most requests that are under way at once.
	InFlight int `koanf:"in_flight"`
	// OnConflict says what to do when the server holds another key for an
	// identity: fail (record it), replace-pending (remove it if it only waits to be
	// accepted, as after a boot in test) or replace (remove it unless it was
	// accepted).
	OnConflict string `koanf:"on_conflict"`
	// OverLimit says what to do with a lot that is beyond the server's limit of
	// devices, whose surplus would be refused in the field: refuse or allow.
	OverLimit string `koanf:"over_limit"`
	// Tier is the device tier of hosted Mender and Mender Enterprise: standard,
	// micro or system. It must be the DeviceTier in the image's mender.conf.
	Tier string `koanf:"tier"`
	// ShelfLife is how long devices may lie unused before their first boot; what
	// ends before is warned of.
	ShelfLife string `koanf:"shelf_life"`
	// Device says what the server's inventory shall say of each device, after it was
	// preauthorized. Nothing is held back by it.
	Device DeviceConfig `koanf:"device"`
	// GiveUp is how long the server may be down before a run stops with code 5.
	// The lot pauses meanwhile and goes on when the server is back.
	GiveUp time.Duration `koanf:"give_up"`

	name string // under servers; empty for the one under server
}

// DeviceConfig is what the server's inventory shall say of a device. All values
// are templates over the manifest's attributes.
type DeviceConfig struct {
	// Name is what Mender shows as the device's name; it is the tag "name".
	//
	//	name: "{{.serial}}"
	Name string `koanf:"name"`
	// Group is the device's static group.
	Group string `koanf:"group"`
	// Tags are added; tags of others stay.
	//
	//	tags: {batch: "{{.batch}}"}
	Tags map[string]string `koanf:"tags"`
}

// ManifestConfig says how manifests are read.
type ManifestConfig struct {
	// Columns maps attribute names to header texts. Headers that are not named
	// are guessed: "MAC address" is mac, "S/N" is serial.
	//
	//	columns: {mac: "MAC address", serial: "Serial no."}
	Columns map[string]string `koanf:"columns"`
	// Identity lists the attributes that the server knows a device by: exactly
	// those that the device's identity script prints. The first one names the
	// device's files. Default: mac, else serial.
	//
	//	identity: [mac]
	Identity []string `koanf:"identity"`
	// Expect is the control total: how many devices the manifest must have. 0: not checked.
	Expect int `koanf:"expect"`
	// Sheet names the sheet of a workbook. Default: the only visible one, or the
	// only one whose columns are those of a manifest.
	Sheet string `koanf:"sheet"`
	// PublicKey is the header of the column with the devices' public keys, for
	// keys.source manifest: PEM, or SPKI in base64 or hexadecimal.
	//
	//	public_key: "Public key"
	PublicKey string `koanf:"public_key"`
	// HeaderRow is the row with the column headers, as a spreadsheet counts. 0: the
	// first row that is neither empty nor a comment.
	HeaderRow int `koanf:"header_row"`
	// Unique lists attributes that no two devices may share, in the manifest and
	// over all lots. Default: serial, if there is one. A single "-" lists none.
	//
	//	unique: [serial, wifi_mac]
	Unique []string `koanf:"unique"`
}

// KeysConfig says where keys come from.
type KeysConfig struct {
	// Source: software, hsm, hsm-entropy or token. For keys that exist already:
	// files (private keys, see files), or manifest (the devices made their keys
	// themselves, and manifest.public_key has the public ones; no image is made).
	Source string `koanf:"source"`
	// Files are the private keys of keys.source files: a path with attributes of
	// the manifest. PEM: PKCS#8, PKCS#1 or SEC1.
	//
	//	files: "keys/{{.serial}}-private.key"
	Files string `koanf:"files"`
	// FilesDestroy overwrites and removes the file of each released device.
	FilesDestroy bool `koanf:"files_destroy"`
	// Algorithm: ed25519, ecdsa-p256, ecdsa-p384, rsa-2048, rsa-3072 or rsa-4096.
	Algorithm string `koanf:"algorithm"`
	// HSM names the HSM token as an RFC 7512 URI with module-path and pin-source.
	// A list names several: keys are spread over them, and one that fails is taken
	// out. In variables and flags, a blank stands between them.
	//
	//	hsm: pkcs11:token=factory?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=/run/pin
	HSM TokenList `koanf:"hsm"`
	// KEKImport: refuse or allow. Where an HSM token can't give out the key that
	// wraps device keys on their way, allow makes that key on this host and gives
	// it to the token in clear; the evidence says so.
	KEKImport string `koanf:"kek_import"`
	// Sessions is the most sessions that are opened at the token. 0: what suits
	// the token; `keymill hsm bench` finds the best number.
	Sessions int `koanf:"sessions"`
	// TokenObjects is the most objects that may lie in the token at once, where
	// keys are token objects. 0: the token's own limit.
	TokenObjects int `koanf:"token_objects"`
	// Timeout is how long one call of the token may take before its session is
	// given up. RSA-4096 takes a smart card a minute.
	Timeout time.Duration `koanf:"timeout"`
	// Limit is the most keys that one run may take from the token. 0: no limit.
	Limit int `koanf:"limit"`
	// Device says how devices reach the tokens that their keys stay in.
	Device DeviceTokenConfig `koanf:"device"`
}

// CertificatesConfig says what X.509 certificates devices get, for lots whose
// image.inject has `content: certificate` or `certificate-chain`.
type CertificatesConfig struct {
	// CA signs them.
	CA CAConfig `koanf:"ca"`
	// Subject is the name in the certificate, most specific part first; its values
	// are templates over the manifest's attributes.
	//
	//	subject: "CN={{.serial}},O=Example"
	Subject string `koanf:"subject"`
	// DNS and URI are further names (subjectAltName), templates too.
	//
	//	dns: ["{{.serial}}.devices.example.com"]
	DNS []string `koanf:"dns"`
	URI []string `koanf:"uri"`
	// HardwareType is the object identifier of the hardware, HardwareSerial a
	// template for its serial number: the hardwareModuleName of IEEE 802.1AR.
	HardwareType   string `koanf:"hardware_type"`
	HardwareSerial string `koanf:"hardware_serial"`
	// Days is how long certificates are valid. 0: without a well-defined end
	// (99991231235959Z, as IEEE 802.1AR has it).
	Days int `koanf:"days"`
	// CRLDays is how long a revocation list is valid.
	CRLDays int `koanf:"crl_days"`
}

// CAConfig is a certificate authority.
type CAConfig struct {
	// Certificate is a PEM file with the CA's certificate, followed by those above it.
	Certificate string `koanf:"certificate"`
	// Key is its private key: a PEM file, or a key in an HSM token
	// (pkcs11:token=factory;object=device-ca), whose module and PIN may be those of keys.hsm.
	Key string `koanf:"key"`
}

// TokenList is one PKCS#11 URI or several, with blanks between them.
type TokenList string

// URIs returns the list's entries. A blank inside an entry stays in it, so that
// whoever parses it says how to write it.
func (l TokenList) URIs() []string {
	var uris []string
	for _, field := range strings.Fields(string(l)) {
		if len(uris) > 0 && !strings.HasPrefix(field, "pkcs11:") {
			uris[len(uris)-1] += " " + field
			continue
		}
		uris = append(uris, field)
	}
	return uris
}

// First returns the first entry, "" if there is none.
func (l TokenList) First() string {
	if all := l.URIs(); len(all) > 0 {
		return all[0]
	}
	return ""
}

// tokensFromList lets a list in the file name several tokens.
func tokensFromList(from, to reflect.Type, data any) (any, error) {
	list, ok := data.([]any)
	if !ok || to != reflect.TypeFor[TokenList]() {
		return data, nil
	}
	uris := make([]string, len(list))
	for i, entry := range list {
		uri, ok := entry.(string)
		if !ok || len(TokenList(uri).URIs()) != 1 {
			return nil, fmt.Errorf("%v is no PKCS#11 URI", entry)
		}
		uris[i] = uri
	}
	return strings.Join(uris, " "), nil
}

// DeviceTokenConfig says, for keys.source token, how devices reach their tokens.
type DeviceTokenConfig struct {
	// PINSource is the file on the device that holds its token's PIN;
	// mender.conf names it. Without it the device must know the PIN otherwise.
	//
	//	pin_source: /data/mender/token-pin
	PINSource string `koanf:"pin_source"`
	// Module is the PKCS#11 module on the device, for OpenSSL 3's
	// pkcs11-provider: images then get an openssl.cnf beside mender.conf. Without
	// it the client is told to use OpenSSL's pkcs11 engine.
	//
	//	module: /usr/lib/libtpm2_pkcs11.so
	Module string `koanf:"module"`
}

// ImageConfig says what becomes of the golden image.
type ImageConfig struct {
	// Golden is the disk image that all devices of a lot share.
	//
	//	golden: golden.sdimg
	Golden string `koanf:"golden" init:"set"`
	// Format of the products: raw (an image file a device), pack (one file for
	// the lot, a few hundred bytes a device; `keymill image write` makes any image
	// from it), qcow2, bmap, simg (a device's difference to golden), gz, xz or zst
	// (compressed images).
	Format string `koanf:"format"`
	// Partition is the data partition: number, label or PARTUUID. Default: found.
	Partition string `koanf:"partition"`
	// Inject lists what every device gets. Each entry has one of content,
	// template, file, link and directory.
	//
	//	inject:
	//	  - {path: /data/mender/mender-agent.pem, content: private-key, mode: "0600"}
	//	  # - {path: /data/factory/serial, template: "{{.serial}}\n", mode: "0644"}
	//	  # - {path: /data/factory, directory: true, mode: "0755"}
	//	  # - {path: /data/factory/current, link: serial}
	//	  # - {path: /data/factory/ca.crt, file: ca.crt, mode: "0644", uid: 0, gid: 0}
	Inject []pipeline.Inject `koanf:"inject" init:"set"`
}

// ReportConfig says what a run leaves in out/LOT/report.
type ReportConfig struct {
	// Formats: csv, jsonl, xlsx.
	Formats []string `koanf:"formats"`
}

// AuditConfig says who made the lot.
type AuditConfig struct {
	// Station names this machine in the evidence. Default: the host name.
	//
	//	station: line-3
	Station string `koanf:"station"`
	// Operator names who started the run.
	Operator string `koanf:"operator"`
	// WorkOrder is the order that the lot is made for.
	WorkOrder string `koanf:"work_order"`
	// WorkOrderFile is a work order that the product's owner signed (`keymill
	// order new`): lots outside it are refused when they are planned.
	WorkOrderFile string `koanf:"work_order_file"`
	// WorkOrderKey is the owner's public key, a PEM file.
	WorkOrderKey string `koanf:"work_order_key"`
	// RequireWorkOrder has the station make nothing without a work order.
	RequireWorkOrder bool `koanf:"require_work_order"`
	// SigningKey signs the evidence: a file or a pkcs11: URI. Default: an
	// Ed25519 key made once beside the ledger.
	SigningKey string `koanf:"signing_key"`
	// TimestampURL is an RFC 3161 authority that stamps the checkpoints of
	// bundles that are exported by hand. Default: none is asked.
	TimestampURL string `koanf:"timestamp_url"`
}

// LogConfig says how the log looks.
type LogConfig struct {
	// Format: text or json.
	Format string `koanf:"format"`
	// Level: debug, info, warn or error.
	Level string `koanf:"level"`
}

// BatchConfig says how `keymill batch` goes about its drop folder.
type BatchConfig struct {
	// Settle is how long a manifest must lie unchanged in the drop folder
	// before it is taken. 0: it is taken at first sight.
	Settle time.Duration `koanf:"settle"`
	// Poll is how often batch --watch looks at the drop folder.
	Poll time.Duration `koanf:"poll"`
	// Retry is after what time batch --watch takes up again what is unfinished:
	// lots with failed devices, lots that an outage stopped.
	Retry time.Duration `koanf:"retry"`
}

// MetricsConfig says where `keymill batch` puts its metrics. Empty: nowhere.
type MetricsConfig struct {
	// Textfile is written for node_exporter's textfile collector; its name must
	// end in .prom.
	Textfile string `koanf:"textfile"`
	// Pushgateway is the URL of a Pushgateway.
	Pushgateway string `koanf:"pushgateway"`
}

// TelemetryConfig says where traces and metrics go by OTLP (OpenTelemetry). The
// usual OTEL_* variables work, too, and beat this file.
type TelemetryConfig struct {
	// OTLPEndpoint is the base URL of the collector: https, or http on this
	// machine. Empty: nothing is sent.
	//
	//	otlp_endpoint: http://127.0.0.1:4318
	OTLPEndpoint string `koanf:"otlp_endpoint"`
	// Protocol: http/protobuf (port 4318) or grpc (port 4317).
	Protocol string `koanf:"protocol"`
	// HeadersFile holds headers that the collector asks for, a line "name: value"
	// each. Without it: the systemd credential otlp-headers, else the environment
	// variable OTEL_EXPORTER_OTLP_HEADERS.
	HeadersFile string `koanf:"headers_file"`
	// CAFile holds PEM certificates of a private CA, trusted beside the system's.
	CAFile string `koanf:"ca_file"`
	// Traces sends a trace for each lot that is worked on. Identities of devices
	// are in it, keys and tokens never.
	Traces bool `koanf:"traces"`
	// Metrics sends the figures that metrics.textfile has.
	Metrics bool `koanf:"metrics"`
	// Sample is the share of devices in a trace, 0 to 1. Devices that fail or
	// conflict are always in it.
	Sample float64 `koanf:"sample"`
	// Interval is the time between two exports of metrics.
	Interval time.Duration `koanf:"interval"`
}

// NotifyConfig says whom `keymill batch` tells when a lot closes, fails or is
// refused.
type NotifyConfig struct {
	// URL of the webhook: https, or http on this machine.
	URL string `koanf:"url"`
	// SecretFile holds the key that signs webhook calls. Without it: the systemd
	// credential webhook-secret, else the environment variable
	// KEYMILL_WEBHOOK_SECRET.
	SecretFile string `koanf:"secret_file"`
	// CAFile holds PEM certificates of a private CA, trusted beside the system's.
	CAFile string `koanf:"ca_file"`
	// Command is a program and its arguments that gets the notification on its
	// standard input.
	Command []string `koanf:"command"`
	// Timeout is the most time for delivering what is pending, tries included.
	Timeout time.Duration `koanf:"timeout"`
}

// AllocateConfig says what `keymill allocate` hands out.
type AllocateConfig struct {
	// MACs are the ranges that addresses are taken from, in this order: an OUI
	// (00:1b:63), a block (00:1b:63:10:00:00/28) or FIRST..LAST.
	//
	//	macs: ["00:1b:63:10:00:00/28"]
	MACs []string `koanf:"macs"`
	// MACAttributes get an address each, consecutive for one device.
	MACAttributes []string `koanf:"mac_attributes"`
	// Serial is the pattern of serial numbers.
	//
	//	serial: "KM{yy}{ww}-{seq:5}"
	Serial string `koanf:"serial"`
	// SerialFirst is the lowest sequence number to use.
	SerialFirst int `koanf:"serial_first"`
}

// BackupConfig says where `keymill ledger upkeep` copies the ledger to.
type BackupConfig struct {
	// Folder of this station's copies, best on another disk. Empty: no copies are
	// made. A ledger in PostgreSQL is backed up with PostgreSQL's own means.
	//
	//	folder: backup
	Folder string `koanf:"folder"`
	// Keep is how many copies are kept; then the oldest goes.
	Keep int `koanf:"keep"`
}

// RetentionConfig says whose images and packs `keymill ledger prune` destroys.
// Records and events are kept.
type RetentionConfig struct {
	// OlderThan is how long ago a lot must have closed, such as 90d. Empty: the
	// age does not matter.
	OlderThan string `koanf:"older_than"`
	// Accepted adds lots of which the server has accepted every device.
	Accepted bool `koanf:"accepted"`
}
