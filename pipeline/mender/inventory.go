package mender

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"keymill/pipeline"
)

// InventoryItem is what the inventory shall say of a device.
type InventoryItem struct {
	DeviceID string // the server's
	// Group is the device's static group; empty: none is set.
	Group string
	// Tags are upserted; tags of others stay. The tag "name" is what Mender shows
	// as the device's name.
	Tags []pipeline.Attr
}

// TagName is the tag that Mender shows as the device's name.
const TagName = "name"

// Bounds of the inventory.
const (
	maxTagName   = 1024
	maxGroupName = 1024
	maxTags      = 20 // the service's default
)

var groupForm = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// CheckGroup refuses a name that the inventory would refuse.
func CheckGroup(name string) error {
	if name != "" && (len(name) > maxGroupName || !groupForm.MatchString(name)) {
		return pipeline.WithHint(fmt.Errorf("%q can't be the name of a group", clean(name, 80)),
			"Names of groups are letters without accents, digits, - and _.")
	}
	return nil
}

// Check refuses what the inventory would refuse.
func (item *InventoryItem) Check() error {
	if err := CheckGroup(item.Group); err != nil {
		return err
	}
	for _, t := range item.Tags {
		if t.Name == "" || len(t.Name) > maxTagName || strings.ContainsAny(t.Name, ".$") {
			return pipeline.WithHint(fmt.Errorf("%q can't be the name of a tag", clean(t.Name, 80)),
				"Names of tags have 1 to %d bytes, and neither a dot nor a dollar sign.", maxTagName)
		}
	}
	if len(item.Tags) > maxTags {
		return pipeline.WithHint(fmt.Errorf("%d tags are too many", len(item.Tags)), "The inventory takes %d for a device.", maxTags)
	}
	return nil
}

// InventoryState is what became of an item.
type InventoryState string

// What can become of it.
const (
	InventoryDone    InventoryState = "done"    // the inventory says what it shall
	InventoryAbsent  InventoryState = "absent"  // it doesn't know the device yet: it is told some time after the preauthorization
	InventoryDiffers InventoryState = "differs" // it says something else; only of a comparison
	InventoryFailed  InventoryState = "failed"  // see the error
)

// InventoryResult is the result for one device.
type InventoryResult struct {
	InventoryItem
	State InventoryState
	Err   error // why it failed, or in what it differs
}

// ErrNoInventory says that the server has no inventory, or that we may not use it.
var ErrNoInventory = errors.New("the server has no inventory, or the token may not use it")

// SetInventory makes the inventory say what the items ask for and yields what
// became of each, in order. It looks first, changes only what differs, and looks
// again: the inventory answers 200 also where it stores nothing, because it
// doesn't know the device yet. Such devices are InventoryAbsent, and worth
// another call later. Errors that end it: ErrNoInventory, an *pipeline.Outage,
// ctx.Err(), and what else keeps the inventory from answering; none of them says
// anything against the devices.
func (c *Client) SetInventory(ctx context.Context, items iter.Seq2[InventoryItem, error]) iter.Seq2[InventoryResult, error] {
	return c.inventoryChunks(ctx, items, c.setChunk)
}

// CompareInventory yields what the inventory says compared with the items, in
// order, and changes nothing. Its errors are those of SetInventory.
func (c *Client) CompareInventory(ctx context.Context, items iter.Seq2[InventoryItem, error]) iter.Seq2[InventoryResult, error] {
	return c.inventoryChunks(ctx, items, func(ctx context.Context, chunk []InventoryItem) ([]InventoryResult, error) {
		found, err := c.inventoryOf(ctx, chunk)
		if err != nil {
			return nil, err
		}
		results := make([]InventoryResult, len(chunk))
		for i, item := range chunk {
			results[i] = found.compare(item)
		}
		return results, nil
	})
}

func (c *Client) inventoryChunks(ctx context.Context, items iter.Seq2[InventoryItem, error],
	work func(context.Context, []InventoryItem) ([]InventoryResult, error)) iter.Seq2[InventoryResult, error] {
	return func(yield func(InventoryResult, error) bool) {
		for chunk, err := range chunks(items, perPage) {
			var results []InventoryResult
			if err == nil {
				results, err = work(ctx, chunk)
			}
			for _, r := range results {
				if !yield(r, nil) {
					return
				}
			}
			if err != nil {
				yield(InventoryResult{}, err)
				return
			}
		}
	}
}

// InventoryRequests returns about how many requests SetInventory makes for so
// many devices that are new to the inventory.
func InventoryRequests(devices int, tags, group bool) int {
	pages := (devices + perPage - 1) / perPage
	n := 2 * pages
	if tags {
		n += devices
	}
	if group {
		n += pages
	}
	return n
}

// inventoried is what the inventory says of some devices, by id.
type inventoried map[string]inventoryDevice

type inventoryDevice struct {
	group string
	tags  map[string]string // values that are no strings as JSON
}

func (found inventoried) compare(item InventoryItem) InventoryResult {
	dev, ok := found[item.DeviceID]
	if !ok {
		return InventoryResult{InventoryItem: item, State: InventoryAbsent}
	}
	var off []string
	if item.Group != "" && dev.group != item.Group {
		off = append(off, fmt.Sprintf("group is %q", clean(dev.group, 80)))
	}
	for _, t := range item.Tags {
		if value, ok := dev.tags[t.Name]; !ok {
			off = append(off, fmt.Sprintf("tag %s is missing", t.Name))
		} else if value != t.Value {
			off = append(off, fmt.Sprintf("tag %s is %q", t.Name, clean(value, 80)))
		}
	}
	if len(off) > 0 {
		return InventoryResult{InventoryItem: item, State: InventoryDiffers, Err: errors.New(strings.Join(off, ", "))}
	}
	return InventoryResult{InventoryItem: item, State: InventoryDone}
}

func (found inventoried) tagsDiffer(item InventoryItem) bool {
	return slices.ContainsFunc(item.Tags, func(t pipeline.Attr) bool {
		value, ok := found[item.DeviceID].tags[t.Name]
		return !ok || value != t.Value
	})
}

// setChunk sets what differs and looks whether that has worked. The group comes
// before the tags, as one request for all.
func (c *Client) setChunk(ctx context.Context, chunk []InventoryItem) ([]InventoryResult, error) {
	found, err := c.inventoryOf(ctx, chunk)
	if err != nil {
		return nil, err
	}
	results := make([]InventoryResult, len(chunk))
	groups := map[string][]string{}
	var changed []InventoryItem
	for i, item := range chunk {
		if err := item.Check(); err != nil {
			results[i] = InventoryResult{InventoryItem: item, State: InventoryFailed, Err: err}
			continue
		}
		if results[i] = found.compare(item); results[i].State != InventoryDiffers {
			continue
		}
		changed = append(changed, item)
		if item.Group != "" && found[item.DeviceID].group != item.Group {
			groups[item.Group] = append(groups[item.Group], item.DeviceID)
		}
	}
	if len(changed) == 0 {
		return results, nil
	}
	for group, ids := range groups {
		if err := c.joinGroup(ctx, group, ids); err != nil {
			return nil, err
		}
	}
	refused, err := c.tagAll(ctx, changed, found)
	if err != nil {
		return nil, err
	}
	after, err := c.inventoryOf(ctx, changed)
	if err != nil {
		return nil, err
	}
	for i := range results {
		r := &results[i]
		if r.State != InventoryDiffers {
			continue
		}
		if why := refused[r.DeviceID]; why != nil {
			r.State, r.Err = InventoryFailed, why
		} else if *r = after.compare(r.InventoryItem); r.State == InventoryDiffers {
			r.State = InventoryFailed
		}
	}
	return results, nil
}

// tagAll sets the tags of the items where they differ, several at once, and
// returns why devices were refused. The first other error ends it.
func (c *Client) tagAll(ctx context.Context, items []InventoryItem, found inventoried) (map[string]error, error) {
	type outcome struct {
		id  string
		err error
	}
	refused := map[string]error{}
	for out, err := range ahead(ctx, c.gate.limit.most, withoutErrors(items), func(ctx context.Context, item InventoryItem) (outcome, error) {
		if !found.tagsDiffer(item) {
			return outcome{}, nil
		}
		err := c.tag(ctx, item)
		if own, ok := errors.AsType[*StatusError](err); ok && own.Status == http.StatusBadRequest {
			return outcome{item.DeviceID, err}, nil
		}
		return outcome{}, err
	}) {
		if err != nil {
			return nil, err
		}
		if out.err != nil {
			refused[out.id] = out.err
		}
	}
	return refused, nil
}

// inventoryCall is a call of the inventory. It gives up soon: nothing waits for
// it that could not be done later.
func (c *Client) inventoryCall(ctx context.Context, k *call) error {
	k.optional, k.quick = true, true
	decode := k.decode
	k.settles = append(k.settles, http.StatusOK, http.StatusNotFound, http.StatusForbidden, http.StatusMethodNotAllowed)
	k.decode = func(a *answer) error {
		if a.status != http.StatusOK || decode == nil {
			return nil
		}
		return decode(a)
	}
	if err := c.do(ctx, k); err != nil {
		return err
	}
	if k.status != http.StatusOK {
		return pipeline.WithHint(fmt.Errorf("%w (it answered %d)", ErrNoInventory, k.status),
			"Look at the server's inventory service and at the token's permissions, then run `keymill retry LOT --inventory`.")
	}
	return nil
}

// inventoryOf asks what the inventory says of the items' devices, in one request
// (POST /filters/search).
func (c *Client) inventoryOf(ctx context.Context, items []InventoryItem) (inventoried, error) {
	ids := make([]string, len(items))
	for i, item := range items {
		ids[i] = item.DeviceID
	}
	body, err := json.Marshal(struct {
		Page    int      `json:"page"`
		PerPage int      `json:"per_page"`
		IDs     []string `json:"device_ids"`
	}{1, perPage, ids})
	if err != nil {
		return nil, err
	}
	var found inventoried
	err = c.inventoryCall(ctx, &call{
		method: http.MethodPost, path: inventoryV2 + "/filters/search", send: body,
		maxBody: maxListBody, timeout: 4 * c.timeout,
		decode: func(a *answer) (err error) {
			found, err = parseInventory(a.body)
			return err
		},
	})
	return found, err
}

func parseInventory(body []byte) (inventoried, error) {
	var list []struct {
		ID         string `json:"id"`
		Attributes []struct {
			Name  string          `json:"name"`
			Scope string          `json:"scope"`
			Value json.RawMessage `json:"value"`
		} `json:"attributes"`
	}
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, err
	}
	found := inventoried{}
	for _, d := range list {
		if d.ID == "" {
			return nil, errGarbled
		}
		dev := inventoryDevice{tags: map[string]string{}}
		for _, a := range d.Attributes {
			text := string(a.Value)
			_ = json.Unmarshal(a.Value, &text) // what is no string stays JSON
			switch {
			case a.Scope == "tags":
				dev.tags[a.Name] = text
			case a.Scope == "system" && a.Name == "group":
				dev.group = text
			}
		}
		found[d.ID] = dev
	}
	return found, nil
}

// tag upserts a device's tags (PATCH; PUT would wipe those of others).
func (c *Client) tag(ctx context.Context, item InventoryItem) error {
	type tag struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	}
	tags := make([]tag, len(item.Tags))
	for i, t := range item.Tags {
		tags[i] = tag(t)
	}
	slices.SortFunc(tags, func(a, b tag) int { return cmp.Compare(a.Name, b.Name) })
	body, err := json.Marshal(tags)
	if err != nil {
		return err
	}
	return c.inventoryCall(ctx, &call{
		method: http.MethodPatch, path: inventoryV1 + "/devices/" + url.PathEscape(item.DeviceID) + "/tags", send: body,
	})
}

// joinGroup puts devices into a group. The inventory passes over those that it
// doesn't know.
func (c *Client) joinGroup(ctx context.Context, group string, ids []string) error {
	body, err := json.Marshal(ids)
	if err != nil {
		return err
	}
	return c.inventoryCall(ctx, &call{
		method: http.MethodPatch, path: inventoryV1 + "/groups/" + url.PathEscape(group) + "/devices", send: body,
	})
}
