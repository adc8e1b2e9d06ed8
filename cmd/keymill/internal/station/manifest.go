package station

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/say"
	"keymill/pipeline"
	"keymill/pipeline/ledger"
	"keymill/sources"
)

// OpenManifest opens the manifest as the configuration says. known may be nil:
// then nothing is known of other lots.
func OpenManifest(path string, cfg *config.Config, lot string, known *ledger.Ledger) (*sources.Manifest, error) {
	var required []string
	if render, err := pipeline.NewRenderer(cfg.Image.Inject); err == nil {
		required = render.Attributes()
	}
	described, err := newDescriber(cfg.Server.Device)
	if err != nil {
		return nil, err
	}
	if described != nil {
		required = append(required, described.attributes()...)
	}
	columns, publicKey := cfg.Manifest.Columns, ""
	if cfg.Keys.Source == pipeline.KeysInManifest {
		publicKey = pipeline.AttrPublicKey
		if cfg.Manifest.PublicKey != "" {
			columns = maps.Clone(columns)
			if columns == nil {
				columns = map[string]string{}
			}
			columns[publicKey] = cfg.Manifest.PublicKey
		}
		required = append(required, publicKey)
	}
	if cfg.Keys.Source == pipeline.KeysInFiles {
		path, err := keyPath(cfg.Keys.Files)
		if err != nil {
			return nil, err
		}
		required = append(required, path.Attributes()...)
	}
	if cfg.Certificates.CA.Certificate != "" {
		required = append(required, certificateProfile(cfg).Attributes()...)
	}
	config := sources.Config{
		PublicKey: publicKey, Columns: columns, Identity: cfg.Manifest.Identity, Required: required,
		Expect: cfg.Manifest.Expect, Sheet: cfg.Manifest.Sheet, HeaderRow: cfg.Manifest.HeaderRow, Unique: uniqueAttributes(cfg),
	}
	if known != nil {
		config.Taken = func(ctx context.Context, ids []pipeline.IdentitySum) (map[pipeline.IdentitySum]string, error) {
			held, err := known.Taken(ctx, lot, ids)
			if err != nil {
				return nil, err
			}
			taken := make(map[pipeline.IdentitySum]string, len(held))
			for id, holder := range held {
				taken[id] = fmt.Sprintf("lot %s, row %d, %s", holder.Lot, holder.Row, holder.State)
			}
			return taken, nil
		}
		config.Held = (&uniqueValues{ledger: known, lot: lot}).held
	}
	manifest, err := sources.Open(path, config)
	if _, ok := errors.AsType[*pipeline.Outage](err); err != nil && !ok {
		err = fault.As(fault.Manifest, fmt.Errorf("manifest %s: %w", path, err))
	}
	return manifest, err
}

// uniqueAttributes returns what manifest.unique lists, nil for the default.
func uniqueAttributes(cfg *config.Config) []string {
	switch unique := cfg.Manifest.Unique; {
	case len(unique) == 0:
		return nil
	case len(unique) == 1 && unique[0] == "-":
		return []string{}
	default:
		return unique
	}
}

// FewWarnings is how many warnings of a manifest are told, and a tenth of how
// many problems: a large lot may have one a row.
const FewWarnings = 20

// checkManifest validates the whole manifest and tells the first problems. An
// error says that the manifest is refused, or that checking was not possible.
func (o *Options) checkManifest(ctx context.Context, manifest *sources.Manifest) (sources.Summary, error) {
	left := map[bool]int{true: FewWarnings, false: 10 * FewWarnings} // by whether it is a warning
	summary, err := manifest.Check(ctx, func(p sources.Problem) {
		if left[p.Warning]--; left[p.Warning] >= 0 && o.Hooks.Problem != nil {
			o.Hooks.Problem(p)
		}
	})
	for i, what := range []string{"problem", "warning"} {
		if more := -left[i == 1]; more > 0 && o.Hooks.Unshown != nil {
			o.Hooks.Unshown(more, what)
		}
	}
	return summary, ManifestFault(ctx, summary, err)
}

// ManifestFault is the fault of a manifest that was checked.
func ManifestFault(ctx context.Context, summary sources.Summary, err error) error {
	switch {
	case err == nil || ctx.Err() != nil:
		return err
	case sources.Refused(err) && summary.Problems > 0:
		return fault.As(fault.Manifest, pipeline.WithHint(
			fmt.Errorf("manifest refused: %s in %s; nothing was changed", say.Count(summary.Problems, "problem"), say.Count(summary.Rows, "row")),
			"Correct what is listed above and run the same command again."))
	}
	if _, ok := errors.AsType[*pipeline.Outage](err); ok {
		return err
	}
	return fault.As(fault.Manifest, fmt.Errorf("manifest: %w", err))
}
