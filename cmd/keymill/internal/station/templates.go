package station

import (
	"context"
	"errors"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/imaging"
	"keymill/pipeline"
)

// LotTemplates describes the templates of the overlays in a lot's pack. each is
// told every overlay, which is wiped after that; nil is allowed.
func LotTemplates(ctx context.Context, settings config.Layers, name string, each func(*pipeline.Record, *imaging.Overlay) error) ([]*imaging.Description, error) {
	view, err := OpenView(ctx, settings, name)
	if err != nil {
		return nil, err
	}
	defer view.Close()
	pack, err := imaging.ReadPack(PackPath(view.Planned))
	if err != nil {
		return nil, fault.StorageOutage(err)
	}
	defer pack.Close()
	seen := map[*imaging.Template]bool{}
	var found []*imaging.Description
	for rec, err := range view.Records(ctx, name, pipeline.Staged, pipeline.Preauthorized, pipeline.Released) {
		if err != nil {
			return nil, err
		}
		_, overlay, err := pack.Read(imaging.Ref(rec.Pack))
		if errors.Is(err, imaging.ErrDestroyed) || rec.Pack.IsZero() {
			continue // its image is out, and the pack was not the product
		}
		if err != nil {
			return nil, fault.StorageOutage(err)
		}
		if !seen[overlay.Template] {
			seen[overlay.Template] = true
			found = append(found, overlay.Template.Describe())
		}
		if each != nil {
			err = each(rec, overlay)
		}
		Wipe(overlay)
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}
