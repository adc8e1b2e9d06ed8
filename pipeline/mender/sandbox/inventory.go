package sandbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// inventory is what was set in the inventory about one device: what the sandbox
// itself knows of it, as its identity and its status, is not kept here.
type inventory struct {
	Group string `json:"group,omitempty"`
	Tags  []tag  `json:"tags,omitempty"`
	Etag  string `json:"etag,omitempty"` // of the tags
}

// tag is an attribute of the scope "tags".
type tag struct {
	Name        string          `json:"name"`
	Value       json.RawMessage `json:"value"`
	Description string          `json:"description,omitempty"`
}

// attribute is a tag or another attribute as the API shows it.
type attribute struct {
	Name        string          `json:"name"`
	Value       json.RawMessage `json:"value"`
	Scope       string          `json:"scope"`
	Description string          `json:"description,omitempty"`
}

// maxTags is how many tags a device may have, the service's default.
const maxTags = 20

func (inv *inventory) json() []byte {
	data, err := json.Marshal(inv)
	if err != nil {
		return []byte("null") // raw values were valid JSON when they came
	}
	return data
}

// values returns the tags as text: strings as they are, the rest as JSON.
func (inv *inventory) values() map[string]string {
	all := map[string]string{}
	for _, t := range inv.Tags {
		text := string(t.Value)
		_ = json.Unmarshal(t.Value, &text) // what is no string stays JSON
		all[t.Name] = text
	}
	return all
}

// upsert sets tags and keeps the others.
func (inv *inventory) upsert(tags []tag) error {
	merged := slices.Clone(inv.Tags)
	for _, t := range tags {
		if i := slices.IndexFunc(merged, func(o tag) bool { return o.Name == t.Name }); i >= 0 {
			merged[i] = t
		} else {
			merged = append(merged, t)
		}
	}
	if len(merged) > maxTags {
		return errTooManyTags
	}
	inv.Tags = merged
	return nil
}

var (
	errTooManyTags = errors.New("the number of attributes in the scope is above the limit")
	errEtag        = errors.New("ETag does not match")
	errNotIndexed  = errors.New("Device not found") // the service's own words
	groupName      = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)
)

func isGroup(name string) bool { return len(name) <= 1024 && groupName.MatchString(name) }

// indexed finds a device that the inventory knows already, and locks its shard.
// Without one nothing is locked. A device without any auth set never gets
// there: the service tells the inventory after it has stored the set.
func (s *Sandbox) indexed(id string) (*device, *shard) {
	d, sh := s.store.lock(id)
	if d == nil {
		return nil, nil
	}
	if len(d.sets) == 0 || time.Now().Before(time.UnixMicro(d.created).Add(s.cfg.InventoryLag)) {
		sh.mu.Unlock()
		return nil, nil
	}
	return d, sh
}

// absent reports whether the version that is played has no such call.
func (cfg *Config) absent(op Op) bool {
	switch op {
	case OpInventoryGet, OpInventorySearch, OpInventoryTags, OpInventoryGroup:
		return cfg.NoInventory
	case OpStatistics:
		return cfg.NoInventory || cfg.Version == Mender41
	}
	return false
}

func (s *Sandbox) inventoryOf(r *request) answer {
	d, sh := s.indexed(r.PathValue("id"))
	if d == nil {
		return r.failure(http.StatusNotFound, errNotIndexed.Error())
	}
	defer sh.mu.Unlock()
	a := jsonAnswer(http.StatusOK, s.store.appendInventory(nil, d))
	if d.inventory != nil {
		a.etag = d.inventory.Etag
	}
	return a
}

// appendInventory appends a device as the inventory shows it. The shard must be
// locked.
func (st *store) appendInventory(dst []byte, d *device) []byte {
	quoted := func(s string) json.RawMessage { return json.RawMessage(strconv.Quote(s)) }
	attrs := []attribute{
		{Name: "status", Value: quoted(d.status.String()), Scope: "identity"},
		{Name: "created_ts", Value: quoted(string(appendTimeText(nil, d.created))), Scope: "system"},
	}
	var identity map[string]json.RawMessage
	if json.Unmarshal([]byte(d.identity), &identity) == nil {
		for name, value := range identity {
			if name != "status" { // the service's own attribute wins
				attrs = append(attrs, attribute{Name: name, Value: value, Scope: "identity"})
			}
		}
	}
	if d.inventory != nil {
		if d.inventory.Group != "" {
			attrs = append(attrs, attribute{Name: "group", Value: quoted(d.inventory.Group), Scope: "system"})
		}
		for _, t := range d.inventory.Tags {
			attrs = append(attrs, attribute{Name: t.Name, Value: t.Value, Scope: "tags", Description: t.Description})
		}
	}
	data, err := json.Marshal(struct {
		ID         string      `json:"id"`
		Attributes []attribute `json:"attributes"`
		Updated    string      `json:"updated_ts"`
	}{st.deviceID(d.number), attrs, string(appendTimeText(nil, d.updated))})
	if err != nil {
		return append(dst, "null"...) // raw values were valid JSON when they came
	}
	return append(dst, data...)
}

func parseTags(body []byte) ([]tag, error) {
	var tags []tag
	if err := json.Unmarshal(body, &tags); err != nil {
		return nil, fmt.Errorf("failed to decode request body: %w", err)
	}
	for _, t := range tags {
		switch {
		case t.Name == "" || len(t.Name) > 1024:
			return nil, errors.New("name: the length must be between 1 and 1024")
		case !isTagValue(t.Value):
			return nil, errors.New("value: supported types are string, float64, and arrays thereof")
		}
	}
	return tags, nil
}

func isTagValue(raw json.RawMessage) bool {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 {
		return false
	}
	switch raw[0] {
	case '{', 'n', 't', 'f':
		return false
	}
	return true
}

func (s *Sandbox) patchTags(r *request) answer {
	return s.setTags(r, func(inv *inventory, tags []tag) error { return inv.upsert(tags) })
}

// putTags replaces all tags, those of others included.
func (s *Sandbox) putTags(r *request) answer {
	return s.setTags(r, func(inv *inventory, tags []tag) error {
		kept := inv.Tags
		inv.Tags = nil
		err := inv.upsert(tags)
		if err != nil {
			inv.Tags = kept
		}
		return err
	})
}

// setTags answers 200 also for a device that the inventory doesn't know, and
// stores nothing then, as the service does.
func (s *Sandbox) setTags(r *request, set func(*inventory, []tag) error) answer {
	tags, err := parseTags(r.body)
	if err != nil {
		return r.failure(http.StatusBadRequest, err.Error())
	}
	match := r.Header.Get("If-Match")
	d, sh := s.indexed(r.PathValue("id"))
	if d == nil {
		if match != "" {
			return r.failure(http.StatusPreconditionFailed, errEtag.Error())
		}
		return answer{status: http.StatusOK}
	}
	defer sh.mu.Unlock()
	inv := &inventory{}
	if d.inventory != nil {
		*inv = *d.inventory
	}
	if match != "" && match != inv.Etag {
		return r.failure(http.StatusPreconditionFailed, errEtag.Error())
	}
	if err := set(inv, tags); err != nil {
		return r.failure(http.StatusBadRequest, err.Error())
	}
	inv.Etag = newRequestID()
	d.inventory = inv
	s.store.keep(d)
	return answer{status: http.StatusOK}
}

// groups lists the groups that have devices.
func (s *Sandbox) groups(r *request) answer {
	all := map[string]bool{}
	for d := range s.store.devices {
		if d.Group != "" {
			all[d.Group] = true
		}
	}
	body, err := json.Marshal(slices.AppendSeq([]string{}, maps.Keys(all)))
	if err != nil {
		return r.internal()
	}
	return jsonAnswer(http.StatusOK, body)
}

func (s *Sandbox) putGroup(r *request) answer {
	var req struct {
		Group string `json:"group"`
	}
	if err := json.Unmarshal(r.body, &req); err != nil {
		return r.failure(http.StatusBadRequest, "failed to decode device group data: "+err.Error())
	}
	if !isGroup(req.Group) {
		return r.failure(http.StatusBadRequest, "group name can only contain: upper/lowercase alphanum, -(dash), _(underscore)")
	}
	if !s.moveToGroup(r.PathValue("id"), req.Group) {
		return r.failure(http.StatusNotFound, errNotIndexed.Error())
	}
	return answer{status: http.StatusNoContent}
}

func (s *Sandbox) moveToGroup(id, group string) bool {
	d, sh := s.indexed(id)
	if d == nil {
		return false
	}
	defer sh.mu.Unlock()
	inv := &inventory{}
	if d.inventory != nil {
		*inv = *d.inventory
	}
	inv.Group = group
	d.inventory = inv
	s.store.keep(d)
	return true
}

// patchGroup puts many devices into a group. Those that the inventory doesn't
// know are passed over in silence; only the counts tell.
func (s *Sandbox) patchGroup(r *request) answer {
	group := r.PathValue("name")
	if !isGroup(group) {
		return r.failure(http.StatusBadRequest, "group name can only contain: upper/lowercase alphanum, -(dash), _(underscore)")
	}
	var ids []string
	if err := json.Unmarshal(r.body, &ids); err != nil {
		return r.failure(http.StatusBadRequest, "invalid payload schema: "+err.Error())
	}
	if len(ids) == 0 {
		return r.failure(http.StatusBadRequest, "no device IDs present in payload")
	}
	n := 0
	for _, id := range ids {
		if s.moveToGroup(id, group) {
			n++
		}
	}
	return jsonAnswer(http.StatusOK, fmt.Appendf(nil, `{"updated_count":%[1]d,"matched_count":%[1]d}`, n))
}

// searchInventory finds devices by their ids; filters and sorting are none of
// what a lot needs, and are refused rather than passed over.
func (s *Sandbox) searchInventory(r *request) answer {
	var req struct {
		Page    int               `json:"page"`
		PerPage int               `json:"per_page"`
		IDs     []string          `json:"device_ids"`
		Filters []json.RawMessage `json:"filters"`
		Sort    []json.RawMessage `json:"sort"`
	}
	if err := json.Unmarshal(r.body, &req); err != nil {
		return r.failure(http.StatusBadRequest, "failed to decode request body: "+err.Error())
	}
	if len(req.Filters)+len(req.Sort) > 0 {
		return r.failure(http.StatusBadRequest, "the sandbox searches by device_ids only")
	}
	page, perPage := max(req.Page, 1), req.PerPage
	if perPage < 1 {
		perPage = perPageDefault
	}
	if perPage > perPageMax {
		return r.failure(http.StatusBadRequest, fmt.Sprintf("per_page: must be no greater than %d", perPageMax))
	}
	slices.Sort(req.IDs)
	list, matched := []byte{'['}, 0
	for _, id := range slices.Compact(req.IDs) {
		d, sh := s.indexed(id)
		if d == nil {
			continue
		}
		if matched++; matched > (page-1)*perPage && matched <= page*perPage {
			if len(list) > 1 {
				list = append(list, ',')
			}
			list = s.store.appendInventory(list, d)
		}
		sh.mu.Unlock()
	}
	a := jsonAnswer(http.StatusOK, append(list, ']'))
	a.total = strconv.Itoa(matched)
	return a
}

// statistics counts devices by status and tier; a service without tiers counts
// all as standard.
func (s *Sandbox) statistics(r *request) answer {
	var b strings.Builder
	b.WriteString(`{"devices_by_status":{"accepted":{`)
	for i, tier := range tierNames {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%q:%d", tier, s.store.acceptedOf(tier)*int64(s.cfg.counts(i)))
	}
	fmt.Fprintf(&b, `},"pending":{"standard":%d,"micro":0,"system":0}}}`, s.store.count(pending))
	return jsonAnswer(http.StatusOK, []byte(b.String()))
}

// counts is 1 for a tier whose devices are counted apart, else 0.
func (cfg *Config) counts(tier int) int {
	if tier == 0 || cfg.takesTiers() {
		return 1
	}
	return 0
}
