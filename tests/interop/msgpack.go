// MessagePack, as far as the protocol uses it, and only in the forms that it allows.
package main

import (
	"encoding/binary"
	"fmt"
	"math"
	"unicode/utf8"
)

// Pair is one entry of a map whose order is kept.
type Pair struct {
	Name  string
	Value any
}

// Map is a map with text for keys, in the order it was written in.
type Map []Pair

// maxDepth bounds nesting: no message of the protocol is deeper than six.
const maxDepth = 16

// appendValue writes nil, bool, int64, uint64, string, []byte, []any or Map in its shortest form.
func appendValue(to []byte, value any) ([]byte, error) {
	switch v := value.(type) {
	case nil:
		return append(to, 0xc0), nil
	case bool:
		if v {
			return append(to, 0xc3), nil
		}
		return append(to, 0xc2), nil
	case int64:
		if v >= 0 {
			return appendUint(to, uint64(v)), nil
		}
		return appendNegative(to, v), nil
	case uint64:
		return appendUint(to, v), nil
	case string:
		to = appendLength(to, len(v), 0xa0, 32, 0xd9, 0xda, 0xdb)
		return append(to, v...), nil
	case []byte:
		to = appendLength(to, len(v), 0, 0, 0xc4, 0xc5, 0xc6)
		return append(to, v...), nil
	case []any:
		to = appendLength(to, len(v), 0x90, 16, 0, 0xdc, 0xdd)
		for _, item := range v {
			var err error
			if to, err = appendValue(to, item); err != nil {
				return nil, err
			}
		}
		return to, nil
	case Map:
		to = appendLength(to, len(v), 0x80, 16, 0, 0xde, 0xdf)
		for _, pair := range v {
			var err error
			if to, err = appendValue(to, pair.Name); err != nil {
				return nil, err
			}
			if to, err = appendValue(to, pair.Value); err != nil {
				return nil, err
			}
		}
		return to, nil
	default:
		return nil, fmt.Errorf("no MessagePack for %T", value)
	}
}

func appendUint(to []byte, v uint64) []byte {
	switch {
	case v < 128:
		return append(to, byte(v))
	case v <= math.MaxUint8:
		return append(to, 0xcc, byte(v))
	case v <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(to, 0xcd), uint16(v))
	case v <= math.MaxUint32:
		return binary.BigEndian.AppendUint32(append(to, 0xce), uint32(v))
	default:
		return binary.BigEndian.AppendUint64(append(to, 0xcf), v)
	}
}

func appendNegative(to []byte, v int64) []byte {
	switch {
	case v >= -32:
		return append(to, byte(v))
	case v >= math.MinInt8:
		return append(to, 0xd0, byte(v))
	case v >= math.MinInt16:
		return binary.BigEndian.AppendUint16(append(to, 0xd1), uint16(v))
	case v >= math.MinInt32:
		return binary.BigEndian.AppendUint32(append(to, 0xd2), uint32(v))
	default:
		return binary.BigEndian.AppendUint64(append(to, 0xd3), uint64(v))
	}
}

// appendLength writes a header: in the tag's own bits where there is room, else after tag8, 16 or 32.
func appendLength(to []byte, n int, fixed byte, below int, tag8, tag16, tag32 byte) []byte {
	switch {
	case n < below:
		return append(to, fixed|byte(n))
	case n <= math.MaxUint8 && tag8 != 0:
		return append(to, tag8, byte(n))
	case n <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(to, tag16), uint16(n))
	default:
		return binary.BigEndian.AppendUint32(append(to, tag32), uint32(n))
	}
}

// readValue reads one value that takes all of data.
func readValue(data []byte) (any, error) {
	r := reader{data}
	value, err := r.value(0)
	if err != nil {
		return nil, err
	}
	if len(r.left) > 0 {
		return nil, fmt.Errorf("%d bytes left over", len(r.left))
	}
	return value, nil
}

type reader struct{ left []byte }

func (r *reader) take(n uint64) ([]byte, error) {
	if uint64(len(r.left)) < n {
		return nil, fmt.Errorf("%d bytes announced, %d there", n, len(r.left))
	}
	taken := r.left[:n]
	r.left = r.left[n:]
	return taken, nil
}

func (r *reader) number(size uint64) (uint64, error) {
	data, err := r.take(size)
	var n uint64
	for _, b := range data {
		n = n<<8 | uint64(b)
	}
	return n, err
}

func (r *reader) value(depth int) (any, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("nested deeper than %d", maxDepth)
	}
	tag, err := r.number(1)
	if err != nil {
		return nil, err
	}
	switch {
	case tag < 0x80:
		return int64(tag), nil
	case tag < 0x90:
		return r.pairs(tag&15, depth)
	case tag < 0xa0:
		return r.items(tag&15, depth)
	case tag < 0xc0:
		return r.text(tag & 31)
	case tag == 0xc0:
		return nil, nil
	case tag == 0xc2 || tag == 0xc3:
		return tag == 0xc3, nil
	case tag >= 0xc4 && tag <= 0xc6:
		return r.sized(1<<(tag-0xc4), func(n uint64) (any, error) {
			data, err := r.take(n)
			return append([]byte{}, data...), err
		})
	case tag >= 0xcc && tag <= 0xcf:
		n, err := r.number(1 << (tag - 0xcc))
		if n > math.MaxInt64 {
			return n, err
		}
		return int64(n), err
	case tag >= 0xd0 && tag <= 0xd3:
		size := uint64(1) << (tag - 0xd0)
		n, err := r.number(size)
		shift := 64 - 8*size
		return int64(n<<shift) >> shift, err
	case tag >= 0xd9 && tag <= 0xdb:
		return r.sized(1<<(tag-0xd9), r.text)
	case tag == 0xdc || tag == 0xdd:
		return r.sized(2<<(tag-0xdc), func(n uint64) (any, error) { return r.items(n, depth) })
	case tag == 0xde || tag == 0xdf:
		return r.sized(2<<(tag-0xde), func(n uint64) (any, error) { return r.pairs(n, depth) })
	case tag >= 0xe0:
		return int64(int8(tag)), nil
	default:
		return nil, fmt.Errorf("tag %#x is not used here", tag) // floats and extensions
	}
}

func (r *reader) sized(size uint64, read func(uint64) (any, error)) (any, error) {
	n, err := r.number(size)
	if err != nil {
		return nil, err
	}
	return read(n)
}

func (r *reader) text(n uint64) (any, error) {
	data, err := r.take(n)
	if err == nil && !utf8.Valid(data) {
		err = fmt.Errorf("text that is not UTF-8")
	}
	return string(data), err
}

func (r *reader) items(n uint64, depth int) (any, error) {
	if n > uint64(len(r.left)) {
		return nil, fmt.Errorf("an array of %d items in %d bytes", n, len(r.left))
	}
	items := make([]any, 0, n)
	for range n {
		item, err := r.value(depth + 1)
		if err != nil {
			return nil, err
		}
		items = append(items, item)
	}
	return items, nil
}

func (r *reader) pairs(n uint64, depth int) (any, error) {
	if n > uint64(len(r.left)) {
		return nil, fmt.Errorf("a map of %d entries in %d bytes", n, len(r.left))
	}
	pairs := make(Map, 0, n)
	for range n {
		key, err := r.value(depth + 1)
		if err != nil {
			return nil, err
		}
		name, ok := key.(string)
		if !ok {
			return nil, fmt.Errorf("a key that is %T", key)
		}
		value, err := r.value(depth + 1)
		if err != nil {
			return nil, err
		}
		pairs = append(pairs, Pair{name, value})
	}
	return pairs, nil
}
