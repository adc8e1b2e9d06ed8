package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
)

// Paging, as all services of Mender do it.
const (
	perPageDefault = 20
	perPageMax     = 500
)

var errStatusFilter = errors.New("filter status must be one of: accepted, pending, rejected, preauthorized or noauth")

func (s *Sandbox) list(r *request) answer {
	query := r.URL.Query()
	f := filter{ids: query["id"]}
	for _, name := range query["status"] {
		st, ok := parseStatus(name)
		if !ok {
			return r.failure(http.StatusBadRequest, errStatusFilter.Error())
		}
		f.statuses = append(f.statuses, st)
	}
	return s.page(r, f)
}

// search filters as the list does, by a body. What else the body asks for, an
// identity say, is ignored.
func (s *Sandbox) search(r *request) answer {
	f, err := parseSearch(r.body)
	if err != nil {
		return r.failure(http.StatusBadRequest, "api: malformed request body: "+err.Error())
	}
	return s.page(r, f)
}

func parseSearch(body []byte) (filter, error) {
	var req struct {
		Status stringOrList `json:"status"`
		ID     stringOrList `json:"id"`
	}
	if err := json.Unmarshal(body, &req); err != nil {
		return filter{}, err
	}
	f := filter{ids: req.ID}
	for _, name := range req.Status {
		st, ok := parseStatus(name)
		if !ok {
			st = statusCount // matches nothing: the search does not check its statuses
		}
		f.statuses = append(f.statuses, st)
	}
	return f, nil
}

// stringOrList is a JSON string or an array of strings.
type stringOrList []string

// UnmarshalJSON implements json.Unmarshaler.
func (l *stringOrList) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '"' {
		*l = []string{""}
		return json.Unmarshal(data, &(*l)[0])
	}
	return json.Unmarshal(data, (*[]string)(l))
}

func (s *Sandbox) page(r *request, f filter) answer {
	query := r.URL.Query()
	page, err := pagingParam(query, "page", 1)
	if err != nil {
		return r.failure(http.StatusBadRequest, err.Error())
	}
	perPage, err := pagingParam(query, "per_page", perPageDefault)
	if err == nil && perPage > perPageMax {
		err = fmt.Errorf("parameter %q above limit (max: %d)", "per_page", perPageMax)
	}
	if err != nil {
		return r.failure(http.StatusBadRequest, err.Error())
	}
	list, more := s.store.page(f, (page-1)*perPage, perPage)
	a := jsonAnswer(http.StatusOK, list)
	a.links = links(r.URL, query, page, perPage, more)
	return a
}

// pagingParam reads a positive number from the query.
func pagingParam(query url.Values, name string, otherwise int) (int, error) {
	text := query.Get(name)
	if text == "" {
		return otherwise, nil
	}
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("invalid %s query: %q", name, text)
	}
	if n < 1 {
		return 0, fmt.Errorf("invalid %s query: value must be a non-zero positive integer", name)
	}
	return int(n), nil
}

// links returns the Link headers (RFC 8288) of a page: relative references, one
// header each, and no last page, as nothing says how many there are.
func links(u *url.URL, query url.Values, page, perPage int, more bool) []string {
	query.Set("per_page", strconv.Itoa(perPage))
	link := func(page int, rel string) string {
		query.Set("page", strconv.Itoa(page))
		return fmt.Sprintf(`<%s?%s>; rel="%s"`, u.Path, query.Encode(), rel)
	}
	all := []string{link(1, "first")}
	if page > 1 {
		all = append(all, link(page-1, "prev"))
	}
	if more {
		all = append(all, link(page+1, "next"))
	}
	return all
}

func (s *Sandbox) count(r *request) answer {
	name := r.URL.Query().Get("status")
	n := 0
	if name == "" {
		for st := range statusCount {
			n += s.store.count(st)
		}
	} else {
		st, ok := parseStatus(name)
		if !ok {
			return r.failure(http.StatusBadRequest,
				"status must be one of: pending, accepted, rejected, preauthorized, noauth")
		}
		n = s.store.count(st)
	}
	return jsonAnswer(http.StatusOK, []byte(`{"count":`+strconv.Itoa(n)+`}`))
}
