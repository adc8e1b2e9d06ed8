package imaging

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// qcow2 version 3, as QEMU's docs/interop/qcow2.txt defines it; big endian. A
// device's file is an overlay whose backing file is golden. Clusters have 4 KiB.
// The tables' parts that are zero are holes of the file, so that the cost of
// a device doesn't grow with the image.
const (
	qcow2Magic       = 0x514649fb
	qcow2HeaderSize  = 104
	qcow2ClusterBits = 12
	qcow2Cluster     = 1 << qcow2ClusterBits
	qcow2PerTable    = qcow2Cluster / 8           // clusters that one L2 table maps
	qcow2PerRefBlock = qcow2Cluster / 2           // clusters whose 16-bit counts lie in one block
	qcow2Copied      = 1 << 63                    // the cluster's count is exactly one
	qcow2Backing     = 0xe2792aca                 // extension: format of the backing file
	qcow2OffsetMask  = (1<<56 - 1) &^ (1<<12 - 1) // of table entries, for clusters of 4 KiB
	qcow2MaxBacking  = 1023                       // bytes of the backing file's name
)

var errQcow2 = errors.New("not a qcow2 file of keymill's making")

// qcow2 names the backing file relative to the devices' files where golden
// lies below or beside them, so that both can be moved together.
func openQcow2(_ context.Context, g Image, dir string) (Writer, error) {
	golden, err := filepath.Abs(g.Path())
	if err != nil {
		return nil, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	backing, err := filepath.Rel(dir, golden)
	if err != nil {
		return nil, err
	}
	if len(backing) > qcow2MaxBacking {
		return nil, fmt.Errorf("a qcow2 file can't name a backing file by %d bytes", len(backing))
	}
	return newDeltaWriter(g, deltaCodec{
		block: func(int64) int64 { return qcow2Cluster },
		encode: func(g Image, blocks []Extent) ([]Extent, int64, error) {
			return encodeQcow2(g.Size(), backing, blocks)
		},
		decode: decodeQcow2,
	})
}

// checkQcow2 refuses what is not whole sectors.
func checkQcow2(size int64) error {
	if size%512 != 0 {
		return refuse("Let the golden image end at a whole sector (truncate -s %512), or use another format.",
			"a qcow2 file can't hold an image of %d bytes: not whole sectors", size)
	}
	return nil
}

// qcow2Layout says at which cluster of the file everything lies.
type qcow2Layout struct {
	refTable, refTables int64 // clusters of the table of blocks of counts
	refBlock, refBlocks int64
	l1, l1Clusters      int64
	l1Entries           int64
	l2                  int64 // the first L2 table; data follow the last one
	data, end           int64
}

// layOut places tables for an image of size bytes, of which l2 tables and data
// clusters are in the file.
func layOut(size, l2, data int64) qcow2Layout {
	up := func(n, per int64) int64 { return (n + per - 1) / per }
	var q qcow2Layout
	q.l1Entries = up(up(size, qcow2Cluster), qcow2PerTable)
	q.l1Clusters = up(q.l1Entries*8, qcow2Cluster)
	for { // the counts count themselves
		q.refTable = 1
		q.refTables = max(1, up(q.refBlocks, qcow2PerTable))
		q.refBlock = q.refTable + q.refTables
		q.l1 = q.refBlock + q.refBlocks
		q.l2 = q.l1 + q.l1Clusters
		q.data = q.l2 + l2
		q.end = q.data + data
		if q.refBlocks == up(q.end, qcow2PerRefBlock) {
			return q
		}
		q.refBlocks = up(q.end, qcow2PerRefBlock)
	}
}

func encodeQcow2(size int64, backing string, blocks []Extent) ([]Extent, int64, error) {
	if err := checkQcow2(size); err != nil {
		return nil, 0, err
	}
	var tables []int64 // the L1 entries in use, ascending
	var clusters int64
	for _, b := range blocks {
		first := b.Offset / qcow2Cluster
		n := (int64(len(b.Data)) + qcow2Cluster - 1) / qcow2Cluster
		for i := first / qcow2PerTable; i <= (first+n-1)/qcow2PerTable; i++ {
			if len(tables) == 0 || tables[len(tables)-1] < i {
				tables = append(tables, i)
			}
		}
		clusters += n
	}
	q := layOut(size, int64(len(tables)), clusters)
	pieces := []Extent{{0, q.header(size, backing)}}
	be := binary.BigEndian
	refTable := make([]byte, q.refBlocks*8)
	for i := range q.refBlocks {
		be.PutUint64(refTable[i*8:], uint64((q.refBlock+i)*qcow2Cluster))
	}
	counts := make([]byte, q.end*2)
	for i := range q.end {
		be.PutUint16(counts[i*2:], 1)
	}
	pieces = append(pieces, Extent{q.refTable * qcow2Cluster, refTable}, Extent{q.refBlock * qcow2Cluster, counts})
	for i, table := range tables {
		entry := be.AppendUint64(nil, uint64((q.l2+int64(i))*qcow2Cluster)|qcow2Copied)
		pieces = append(pieces, Extent{q.l1*qcow2Cluster + table*8, entry})
	}
	l2 := make([]byte, len(tables)*qcow2Cluster)
	pieces = append(pieces, Extent{q.l2 * qcow2Cluster, l2})
	at, t := q.data, 0
	for _, b := range blocks {
		pieces = append(pieces, Extent{at * qcow2Cluster, b.Data})
		for c := b.Offset / qcow2Cluster; c*qcow2Cluster < b.Offset+int64(len(b.Data)); c++ {
			for tables[t] < c/qcow2PerTable {
				t++
			}
			be.PutUint64(l2[int64(t)*qcow2Cluster+c%qcow2PerTable*8:], uint64(at*qcow2Cluster)|qcow2Copied)
			at++
		}
	}
	return pieces, q.end * qcow2Cluster, nil
}

// header returns the first cluster: the header, the extension that names the
// backing file's format, and the backing file's name.
func (q *qcow2Layout) header(size int64, backing string) []byte {
	be := binary.BigEndian
	h := make([]byte, qcow2HeaderSize, qcow2Cluster)
	be.PutUint32(h[0:], qcow2Magic)
	be.PutUint32(h[4:], 3)
	be.PutUint32(h[20:], qcow2ClusterBits)
	be.PutUint64(h[24:], uint64(size))
	be.PutUint32(h[36:], uint32(q.l1Entries))
	be.PutUint64(h[40:], uint64(q.l1*qcow2Cluster))
	be.PutUint64(h[48:], uint64(q.refTable*qcow2Cluster))
	be.PutUint32(h[56:], uint32(q.refTables))
	be.PutUint32(h[96:], 4) // counts of 1<<4 bits
	be.PutUint32(h[100:], qcow2HeaderSize)
	h = be.AppendUint32(h, qcow2Backing)
	h = be.AppendUint32(h, 3)
	h = append(h, "raw\x00\x00\x00\x00\x00"...)
	h = be.AppendUint64(h, 0) // end of the extensions
	be.PutUint64(h[8:], uint64(len(h)))
	be.PutUint32(h[16:], uint32(len(backing)))
	return append(h, backing...)
}

// decodeQcow2 reads the clusters back that lie in the file. The backing file
// is not opened.
func decodeQcow2(f *os.File, _ string, size int64) ([]Extent, error) {
	be := binary.BigEndian
	h := make([]byte, qcow2HeaderSize)
	if _, err := f.ReadAt(h, 0); err != nil || be.Uint32(h) != qcow2Magic || be.Uint32(h[4:]) != 3 ||
		be.Uint32(h[20:]) != qcow2ClusterBits {
		return nil, errQcow2
	}
	entries, l1 := int64(be.Uint32(h[36:])), int64(be.Uint64(h[40:]))
	if be.Uint64(h[24:]) != uint64(size) || entries != layOut(size, 0, 0).l1Entries || l1 < 0 {
		return nil, fmt.Errorf("%w: it is for an image of another length", errQcow2)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	left := info.Size() / qcow2Cluster // clusters that can be mapped, each once
	filled, err := dataWithin(f, l1, l1+entries*8)
	if err != nil {
		return nil, err
	}
	var blocks []Extent
	for _, s := range filled {
		part := make([]byte, s.Length)
		if _, err := f.ReadAt(part, s.Offset); err != nil {
			return nil, fmt.Errorf("%w: %w", errQcow2, err)
		}
		first := (s.Offset - l1) / 8
		for i := range int64(len(part)) / 8 {
			table := int64(be.Uint64(part[i*8:]) & qcow2OffsetMask)
			if table == 0 {
				continue
			}
			if blocks, err = appendL2(blocks, f, table, first+i, size, &left); err != nil {
				return nil, err
			}
		}
	}
	return blocks, nil
}

// appendL2 appends what the L2 table at an offset of the file maps, and
// counts down the clusters that are left.
func appendL2(blocks []Extent, f *os.File, table, index, size int64, left *int64) ([]Extent, error) {
	l2 := make([]byte, qcow2Cluster)
	if _, err := f.ReadAt(l2, table); err != nil {
		return nil, fmt.Errorf("%w: %w", errQcow2, err)
	}
	for i := range int64(qcow2PerTable) {
		from := int64(binary.BigEndian.Uint64(l2[i*8:]) & qcow2OffsetMask)
		if from == 0 {
			continue
		}
		at := (index*qcow2PerTable + i) * qcow2Cluster
		if at >= size {
			return nil, fmt.Errorf("%w: a cluster lies beyond the end", errQcow2)
		}
		if *left--; *left < 0 {
			return nil, fmt.Errorf("%w: it maps more clusters than it has", errQcow2)
		}
		data := make([]byte, min(qcow2Cluster, size-at))
		if _, err := f.ReadAt(data, from); err != nil {
			return nil, fmt.Errorf("%w: %w", errQcow2, err)
		}
		blocks = joinExtent(blocks, Extent{at, data})
	}
	return blocks, nil
}
