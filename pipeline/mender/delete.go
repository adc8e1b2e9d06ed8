package mender

import (
	"context"
	"errors"
	"net/http"
	"net/url"
)

// DeleteDevice removes a device with all its auth sets. The server does so
// asynchronously: until it has finished, the device shows as decommissioning.
// A device that is gone already is no error.
func (c *Client) DeleteDevice(ctx context.Context, id string) error {
	_, err := c.remove(ctx, devicePath(id), 0)
	return err
}

// DeleteAuthSet removes one key of a device; the device goes with it where that
// was its only, preauthorized one. A set that is gone already is no error.
func (c *Client) DeleteAuthSet(ctx context.Context, deviceID, authSetID string) error {
	_, err := c.remove(ctx, authSetPath(deviceID, authSetID), 0)
	return err
}

func authSetPath(deviceID, authSetID string) string {
	return devicePath(deviceID) + "/auth/" + url.PathEscape(authSetID)
}

func (c *Client) remove(ctx context.Context, path string, maxFailures int) (*call, error) {
	k := &call{
		method: http.MethodDelete, path: path, maxFailures: maxFailures,
		settles: []int{http.StatusNoContent, http.StatusNotFound},
	}
	return k, c.do(ctx, k)
}

// setDeleteFailures is how often a DELETE of an auth set may fail: after a
// forced preauthorization has given a device two sets, the server can answer
// 500 to it for ever.
const setDeleteFailures = 3

// removeSet removes one auth set, and the whole device where the server can't
// do the first. The caller has made sure that the device may go.
func (c *Client) removeSet(ctx context.Context, deviceID, authSetID string) (attempts int, err error) {
	k, err := c.remove(ctx, authSetPath(deviceID, authSetID), setDeleteFailures)
	if err == nil || ctx.Err() != nil || !isServerFault(err) {
		return k.attempts, err
	}
	c.log.WarnContext(ctx, "the server can't delete the auth set; deleting the device", "device_id", deviceID, "cause", err)
	attempts = k.attempts
	k, err = c.remove(ctx, devicePath(deviceID), 0)
	return attempts + k.attempts, err
}

func isServerFault(err error) bool {
	e, ok := errors.AsType[*StatusError](err)
	return ok && e.Status >= 500
}
