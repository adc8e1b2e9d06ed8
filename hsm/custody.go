package hsm

// Custody says where a signing key lies, for the evidence. It holds no secrets.
type Custody struct {
	Algorithm     Algorithm `json:"algorithm"`
	Label         string    `json:"label,omitempty"`
	ID            string    `json:"id,omitempty"` // hexadecimal
	Module        string    `json:"module,omitempty"`
	ModuleVersion string    `json:"module_version,omitempty"`
	ModulePath    string    `json:"module_path,omitempty"`
	ModuleSHA256  string    `json:"module_sha256,omitempty"`
	TokenLabel    string    `json:"token_label,omitempty"`
	TokenSerial   string    `json:"token_serial,omitempty"`
	TokenModel    string    `json:"token_model,omitempty"`
	Firmware      string    `json:"firmware,omitempty"`
	// As the token reports them. Local: the key was made in the token.
	Local            bool `json:"local"`
	Sensitive        bool `json:"sensitive"`
	Extractable      bool `json:"extractable"`
	AlwaysSensitive  bool `json:"always_sensitive"`
	NeverExtractable bool `json:"never_extractable"`
	// Certificates (DER) that the token holds over the key: a CA's, or the
	// maker's attestation of the key's origin.
	Certificates [][]byte `json:"certificates,omitempty"`
}
