package hsm

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestMenderSecurity(t *testing.T) {
	const uri = "pkcs11:token=device;object=mender;id=%01"
	got, err := MenderSecurity(uri, Engine)
	if want := `{"Security":{"AuthPrivateKey":"` + uri + `","SSLEngine":"pkcs11"}}`; string(got) != want || err != nil {
		t.Errorf("%s, %v", got, err)
	}
	got, err = MenderSecurity(uri+"?pin-value=1&module-path=/usr/lib/m.so", OpenSSL3)
	var conf map[string]map[string]string
	if err != nil || json.Unmarshal(got, &conf) != nil || conf["Security"]["AuthPrivateKey"] != uri+"?pin-value=1&module-path=/usr/lib/m.so" {
		t.Errorf("%s, %v", got, err)
	}
	if _, named := conf["Security"]["SSLEngine"]; named {
		t.Error("providers are used without an engine")
	}
	for _, bad := range []string{"pkcs11:token=device", "/data/key.pem", ""} {
		if _, err := MenderSecurity(bad, Engine); err == nil {
			t.Errorf("%q accepted", bad)
		}
	}
	if _, err := MenderSecurity(uri, "magic"); err == nil {
		t.Error("an unknown way accepted")
	}
}

func TestOpenSSLReadsProviderConf(t *testing.T) {
	openssl := needTool(t, "openssl", "openssl")
	conf := ProviderConf("/usr/lib/libvendor.so")
	path := filepath.Join(t.TempDir(), "openssl.cnf")
	// pkcs11-provider isn't in Debian 12: openssl judges everything but its loading.
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(conf, "pkcs11 = pkcs11_sect\n", "")), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(openssl, "list", "-providers")
	cmd.Env = append(os.Environ(), "OPENSSL_CONF="+path)
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "default") {
		t.Errorf("%v\n%s", err, out)
	}
	if !strings.Contains(conf, "pkcs11-module-path = /usr/lib/libvendor.so\n") {
		t.Error(conf)
	}
}
