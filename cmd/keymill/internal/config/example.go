package config

import _ "embed"

// Example has every setting with its meaning. `go generate` makes it from
// the comments of Config.
//
//go:generate go test -count=1 -run ^TestConfigFiles$ . -update
//go:embed init.yaml
var Example []byte

// SchemaFile is what keymill.yaml names for editors.
const SchemaFile = "keymill.schema.json"
