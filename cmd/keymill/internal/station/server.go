package station

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"keymill/cmd/keymill/internal/build"
	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/pipeline"
	"keymill/pipeline/mender"
)

// OpenServer makes the client of the configured server. It asks the server nothing.
func (o *Options) OpenServer(cfg *config.Config, log *slog.Logger) (*mender.Client, error) {
	token, err := o.tokenSource(cfg.Server)
	if err != nil {
		return nil, fault.As(fault.Usage, err)
	}
	client, err := mender.New(mender.Config{
		URL: cfg.Server.URL, Token: token, CAFile: cfg.Server.CAFile, InFlight: cfg.Server.InFlight, Tier: cfg.Server.Tier,
		UserAgent: "keymill/" + build.Version(), Log: log, GiveUp: cfg.Server.GiveUp,
		Follow: o.Hooks.FollowRequest,
	})
	if err != nil {
		return nil, fault.As(fault.Usage, err)
	}
	return client, nil
}

// tokenSource finds the server's token: a file that is named, a login, the
// systemd credential, the environment. In that order, and never a flag.
func (o *Options) tokenSource(cfg config.ServerConfig) (mender.TokenSource, error) {
	if err := o.Settings.Env.GuardSecret("server.token_file", cfg.TokenFile); err != nil {
		return nil, err
	}
	if err := o.Settings.Env.GuardSecret("server.password_file", cfg.PasswordFile); err != nil {
		return nil, err
	}
	switch {
	case cfg.TokenFile != "":
		// It is not read here: a pipe gives it only once.
		if info, err := os.Stat(cfg.TokenFile); err != nil || info.IsDir() {
			err = cmp.Or(err, fmt.Errorf("%s is a folder", cfg.TokenFile))
			return nil, pipeline.WithHint(err, "server.token_file must name a readable file that holds the token.")
		}
		return mender.TokenFile(cfg.TokenFile), nil
	case cfg.User != "":
		if cfg.PasswordFile == "" {
			return nil, pipeline.WithHint(errors.New("server.user is set, but no password"), "Set server.password_file.")
		}
		return mender.Login(cfg.User, cfg.PasswordFile), nil
	}
	credential, given := o.Settings.Env.CredentialFile("mender-token")
	if given {
		return mender.TokenFile(credential), nil
	}
	if token := o.Settings.Env.Get("KEYMILL_TOKEN"); token != "" {
		return mender.TokenValue(strings.TrimSpace(token)), nil
	}
	if credential != "" && files.Exists(credential) {
		return nil, pipeline.WithHint(errors.New("the systemd credential mender-token is empty"),
			"Put the Mender server's token into the file that LoadCredential= of the unit names; the Debian package's is /etc/keymill/mender-token.")
	}
	return nil, pipeline.WithHint(errors.New("there is no token for the Mender server"),
		"Give --token-file FILE, set server.token_file, or provide the systemd credential mender-token or KEYMILL_TOKEN.")
}

// ServerView is what plan and doctor show of the server.
type ServerView struct {
	URL          string     `json:"url"`
	TokenExpires *time.Time `json:"token_expires,omitempty"`
	MaxDevices   int        `json:"max_devices,omitempty"`
	Devices      int        `json:"devices"`
	Accepted     int        `json:"accepted"`
	Preauth      int        `json:"preauthorized"`
	SkewSeconds  float64    `json:"clock_skew_seconds"`
	LatencyMS    float64    `json:"latency_ms"`
}

// viewServer shows what a probe found.
func viewServer(p mender.Probe) ServerView {
	view := ServerView{
		URL: p.URL, MaxDevices: p.MaxDevices, Devices: p.Devices, Accepted: p.Accepted, Preauth: p.Preauth,
		SkewSeconds: p.Skew.Seconds(), LatencyMS: float64(p.Latency.Microseconds()) / 1000,
	}
	if !p.TokenExpires.IsZero() {
		view.TokenExpires = &p.TokenExpires
	}
	return view
}

// String returns the server's state on one line.
func (v ServerView) String() string {
	text := fmt.Sprintf("%s, %d devices registered (%d preauthorized, %d accepted)", v.URL, v.Devices, v.Preauth, v.Accepted)
	if v.MaxDevices > 0 {
		text += fmt.Sprintf(", limit %d", v.MaxDevices)
	}
	if v.TokenExpires != nil {
		text += ", token valid until " + v.TokenExpires.UTC().Format(time.RFC3339)
	}
	return text
}
