package imaging

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
)

// The unit marker lies in the first sector of a medium that is being written, in
// the place of the boot record, so that the medium can't boot:
//
//	 0 16  magic "KEYMILL UNIT\n" and three zero bytes
//	16 16  the marker
//	32 32  SHA-256 of the golden image
//	64  4  checksum of bytes 0 to 63, CRC-32C, little endian
//
// The rest of the sector is zero. When all else is on the medium and was compared,
// the image's own first sector takes its place: one write of one sector, which
// happens whole or not at all.
const (
	markerMagic = "KEYMILL UNIT\n\x00\x00\x00"
	markerBytes = 68
)

func marshalMarker(marker [16]byte, golden [32]byte, sector int64) []byte {
	b := make([]byte, sector)
	copy(b, markerMagic)
	copy(b[16:], marker[:])
	copy(b[32:], golden[:])
	binary.LittleEndian.PutUint32(b[64:], crc32.Checksum(b[:64], castagnoli))
	return b
}

func parseMarker(b []byte) (marker [16]byte, found bool) {
	if len(b) < markerBytes || string(b[:16]) != markerMagic ||
		binary.LittleEndian.Uint32(b[64:]) != crc32.Checksum(b[:64], castagnoli) {
		return marker, false
	}
	copy(marker[:], b[16:])
	return marker, true
}

func readMarker(r io.ReaderAt) (marker [16]byte, found bool, err error) {
	b := make([]byte, markerBytes)
	if n, err := r.ReadAt(b, 0); n < len(b) {
		if err == io.EOF {
			return marker, false, nil
		}
		return marker, false, fmt.Errorf("read the medium's first sector: %w", err)
	}
	marker, found = parseMarker(b)
	return marker, found, nil
}
