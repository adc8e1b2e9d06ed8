package mender

import (
	"context"
	"encoding/json"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

const (
	// perPage is the most that the server gives at once; for more it answers 400.
	perPage = 500
	// pagesAhead is how many pages are asked for at once: each costs the
	// server a query a device.
	pagesAhead = 4
)

// Devices lists the devices of a status, all for "". Pages are asked for in
// parallel and come in the server's order. A listing is no snapshot: a device
// that is added or removed meanwhile can make others appear twice or not at all.
func (c *Client) Devices(ctx context.Context, status string) iter.Seq2[*Device, error] {
	return func(yield func(*Device, error) bool) {
		for page, err := range c.pages(ctx, status) {
			if err != nil {
				yield(nil, err)
				return
			}
			for _, dev := range page.devices {
				if !yield(dev, nil) {
					return
				}
			}
		}
	}
}

type page struct {
	devices []*Device
	next    int // the number of the next page; 0: this is the last
}

// pages asks for as many pages at once as the server's count promises, and
// then goes on for as long as there is a next one.
func (c *Client) pages(ctx context.Context, status string) iter.Seq2[page, error] {
	return func(yield func(page, error) bool) {
		count, err := c.Count(ctx, status)
		if err != nil {
			yield(page{}, err)
			return
		}
		counted := max(1, (count+perPage-1)/perPage)
		numbers := func(yield func(int, error) bool) {
			for n := 1; n <= counted && yield(n, nil); n++ {
			}
		}
		var last page
		for p, err := range ahead(ctx, pagesAhead, numbers, func(ctx context.Context, n int) (page, error) {
			return c.page(ctx, status, n)
		}) {
			last = p
			if !yield(p, err) || err != nil {
				return
			}
		}
		for n := last.next; n > counted; n = last.next {
			if last, err = c.page(ctx, status, n); !yield(last, err) || err != nil {
				return
			}
			counted = n
		}
	}
}

func (c *Client) page(ctx context.Context, status string, n int) (page, error) {
	q := url.Values{"page": {strconv.Itoa(n)}, "per_page": {strconv.Itoa(perPage)}}
	if status != "" {
		q.Set("status", status)
	}
	var p page
	k := &call{
		method: http.MethodGet, path: apiPath + "/devices", query: q.Encode(),
		settles: []int{http.StatusOK}, maxBody: maxListBody, timeout: 4 * c.timeout,
		decode: func(a *answer) (err error) {
			p.devices, err = parseDevices(a.body)
			p.next = nextPage(a.header.Values("Link"))
			return err
		},
	}
	err := c.do(ctx, k)
	return p, err
}

func parseDevices(body []byte) ([]*Device, error) {
	var list []wireDevice
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, err
	}
	devices := make([]*Device, len(list))
	for i := range list {
		if list[i].ID == "" {
			return nil, errGarbled
		}
		devices[i] = list[i].device()
	}
	return devices, nil
}

// nextPage returns the page number in the link of relation "next" (RFC 8288),
// 0 if there is none. Only the number is used: the address in the link may be
// that of a server behind a gateway.
func nextPage(links []string) int {
	for _, link := range strings.Split(strings.Join(links, ","), ",") {
		target, params, ok := strings.Cut(link, ">")
		_, address, open := strings.Cut(target, "<")
		if !ok || !open || !isNext(params) {
			continue
		}
		u, err := url.Parse(address)
		if err != nil {
			continue
		}
		if n, err := strconv.Atoi(u.Query().Get("page")); err == nil && n > 0 {
			return n
		}
	}
	return 0
}

func isNext(params string) bool {
	for _, param := range strings.Split(params, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(param), "=")
		if strings.EqualFold(name, "rel") && strings.EqualFold(strings.Trim(value, `"`), "next") {
			return true
		}
	}
	return false
}

// Count returns how many devices of a status there are, of all for "".
func (c *Client) Count(ctx context.Context, status string) (int, error) {
	k, n := c.countCall(status)
	err := c.do(ctx, k)
	return *n, err
}

func (c *Client) countCall(status string) (*call, *int) {
	n := new(int)
	k := &call{method: http.MethodGet, path: apiPath + "/devices/count", settles: []int{http.StatusOK}}
	if status != "" {
		k.query = url.Values{"status": {status}}.Encode()
	}
	k.decode = func(a *answer) error {
		var body struct {
			Count *int `json:"count"`
		}
		if json.Unmarshal(a.body, &body) != nil || body.Count == nil || *body.Count < 0 {
			return errGarbled
		}
		*n = *body.Count
		return nil
	}
	return k, n
}
