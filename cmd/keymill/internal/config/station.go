package config

import "time"

// StationConfig says how `keymill station`, the operator's page, works.
type StationConfig struct {
	// Listen is the page's address. Beyond loopback it wants a certificate.
	Listen string `koanf:"listen"`
	// TLSCert is the page's certificate, PEM; TLSKey its key.
	TLSCert string `koanf:"tls_cert"`
	TLSKey  string `koanf:"tls_key"`
	// Code is the attribute on the unit's own sticker, which the operator scans.
	// Empty: units have none, and NEXT takes the lot's next device.
	Code string `koanf:"code"`
	// Confirm says what closes a unit: label (its printed label is scanned) or
	// operator (who scans DONE).
	Confirm string `koanf:"confirm"`
	// Slots are the places that media are plugged into, each by topology, never by
	// a serial number. One that has only a name is learnt at the page. file: is an
	// image file instead of a medium, for trials; once its unit is confirmed it is
	// renamed to NAME-DEVICE.img. command: writes the unit, read_back: reads it
	// back, and their exit status decides; they know {{.image}} (a file), {{.pipe}}
	// (the same as a named pipe), {{.port}}, {{.unit}}, {{.device}} and {{.sha256}}.
	//
	//	slots: [{name: "1", port: "1-1.2"}, {name: "2", disk: /dev/mmcblk0}, {name: trial, file: slot-trial.img}, {name: "3", command: [fastboot, flash, mmcblk0, "{{.image}}"]}]
	Slots []SlotConfig `koanf:"slots"`
	// Largest is the size in bytes of the largest medium that is taken without a
	// supervisor. 0: any.
	Largest int `koanf:"largest"`
	// Badges is a CSV file with the columns badge, name, role and pin. role is
	// operator or supervisor; pin is the hash of a supervisor's PIN, as `argon2 -id
	// -e` or `htpasswd -nB` write it. Empty: nobody is asked for a badge, and
	// nothing can be overridden at the page.
	Badges string `koanf:"badges"`
	// Before is a program that each unit passes before it is written: JSON on
	// standard input, {"result": "pass"} on standard output.
	Before []string `koanf:"before"`
	// After is such a program between writing and label.
	//
	//	after: [/usr/local/bin/functional-test]
	After []string `koanf:"after"`
	// HookLimit is how long before and after may take.
	HookLimit time.Duration `koanf:"hook_limit"`
	// ProgramLimit is how long a slot's command may take.
	ProgramLimit time.Duration `koanf:"program_limit"`
	// Call says whom to call when the line stops, by part: server, hsm, disk,
	// printer or all.
	//
	//	call: {printer: "Eve, 4712", all: "shift lead, 4700"}
	Call map[string]string `koanf:"call"`
	// Silence ends a scan of a scanner that sends neither Enter nor Tab.
	Silence time.Duration `koanf:"silence"`
}

// SlotConfig is one slot. At most one of Port, Disk, File and Command says where
// it is; Port may stand beside Command.
type SlotConfig struct {
	// Name is what the operator calls it.
	Name string `koanf:"name"`
	// Port is a USB port as /sys/bus/usb/devices names it: 1-1.2.
	Port string `koanf:"port"`
	// Disk is a path that names a place: /dev/disk/by-path/.., /dev/mmcblk0.
	Disk string `koanf:"disk"`
	// File is an image file instead of a medium, for trials.
	File string `koanf:"file"`
	// Command is the program that writes the unit.
	Command []string `koanf:"command"`
	// ReadBack is the program that reads it back.
	ReadBack []string `koanf:"read_back"`
}

// LabelConfig says what units' labels look like, and where they are printed.
type LabelConfig struct {
	// Printer is tcp://HOST:9100 (ZPL), cups:NAME or file:DIR. Empty: no labels.
	//
	//	printer: tcp://192.0.2.7:9100
	Printer string `koanf:"printer"`
	// Template is a file with ZPL or SVG in which {{.serial}}, any other attribute,
	// {{.gs1}}, {{.code}}, {{.link}} and {{.symbol}} stand for values. Empty: the
	// built-in label.
	Template string `koanf:"template"`
	// Size of the built-in label in millimetres: 30x15 or 50x25.
	Size string `koanf:"size"`
	// Symbol: datamatrix, qr or code128.
	Symbol string `koanf:"symbol"`
	// Content of the code: gs1, which is (01)GTIN(21)serial, link (a GS1 Digital
	// Link) or plain. Empty: gs1 where there is a GTIN, link where the symbol is
	// qr, else plain.
	Content string `koanf:"content"`
	// GTIN is the article's number with its check digit, in quotes.
	//
	//	gtin: "4006381333931"
	GTIN string `koanf:"gtin"`
	// Serial is the attribute in the code. Empty: serial, else the identity's first
	// value.
	Serial string `koanf:"serial"`
	// DPI is the printer's resolution: 203, 300 or 600.
	DPI int `koanf:"dpi"`
}

func defaultStation() StationConfig {
	return StationConfig{
		Listen: "127.0.0.1:8090", Code: "serial", Confirm: "label",
		HookLimit: time.Minute, ProgramLimit: 10 * time.Minute, Silence: 80 * time.Millisecond,
	}
}
