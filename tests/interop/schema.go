// The messages, as section 4 of docs/protocol.md lists them: the table there is this program's schema.
package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Fields holds a message by its fields' names.
type Fields = map[string]any

type field struct {
	name     string
	kind     string
	optional bool // has a default
	preset   any
}

type message struct {
	name   string
	tag    string
	fields []field
}

// Schema knows every message of the document by name.
type Schema map[string]message

var (
	fieldStart = regexp.MustCompile("^`(\\w+)` ")
	ranged     = regexp.MustCompile(`^(int|bytes|text)\((-?\d*)\.\.(-?\d*)\)$`)
	listed     = regexp.MustCompile(`^\[(.+); (\d+)\.\.(\d*)\]$`)
	className  = regexp.MustCompile(`^[a-z0-9-]{0,16}$`)
)

// causes are the words of section 9's table.
var causes = map[string]bool{}

// readSchema reads the table of messages, and the causes, out of the specification.
func readSchema(path string) (Schema, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	_, rest, found := strings.Cut(string(text), "<!-- from the code: messages -->")
	table, _, closed := strings.Cut(rest, "<!-- end -->")
	if !found || !closed {
		return nil, fmt.Errorf("%s has no table of messages", path)
	}
	schema := Schema{}
	for _, row := range strings.Split(table, "\n") {
		cells := strings.Split(row, "|")
		if len(cells) < 5 || !strings.HasPrefix(strings.TrimSpace(cells[1]), "`") {
			continue
		}
		one := message{name: strings.Trim(cells[1], " `"), tag: strings.Trim(cells[2], " `")}
		if one.fields, err = readFields(strings.TrimSpace(cells[3])); err != nil {
			return nil, fmt.Errorf("%s: %w", one.name, err)
		}
		schema[one.name] = one
	}
	for _, row := range strings.Split(string(text), "\n") {
		if strings.HasPrefix(row, "| `exited`") {
			for _, word := range strings.FieldsFunc(row, func(r rune) bool { return strings.ContainsRune("|` ", r) }) {
				causes[word] = true
			}
		}
	}
	return schema, nil
}

func readFields(text string) ([]field, error) {
	var fields []field
	for text != "" {
		start := fieldStart.FindStringSubmatch(text)
		if start == nil {
			return nil, fmt.Errorf("no field begins with %q", text)
		}
		text = text[len(start[0]):]
		end := outside(text, ",")
		rest := ""
		if end < len(text) {
			rest = strings.TrimPrefix(text[end:], ", ")
		}
		kind, preset, optional := strings.Cut(text[:end], " = ")
		one := field{name: start[1], kind: kind, optional: optional}
		if optional {
			decoder := json.NewDecoder(strings.NewReader(preset))
			decoder.UseNumber()
			var value any
			if err := decoder.Decode(&value); err != nil {
				return nil, fmt.Errorf("default of %s: %w", one.name, err)
			}
			one.preset = value
		}
		fields = append(fields, one)
		text = rest
	}
	return fields, nil
}

// outside returns where the first mark stands that is in no bracket and no quotes.
func outside(text, mark string) int {
	depth, quoted := 0, false
	for i, r := range text {
		switch {
		case r == '"':
			quoted = !quoted
		case quoted:
		case r == '[' || r == '(':
			depth++
		case r == ']' || r == ')':
			depth--
		case depth == 0 && strings.HasPrefix(text[i:], mark):
			return i
		}
	}
	return len(text)
}

// Encode writes a message with all its fields, in the order of the document.
func (s Schema) Encode(name string, fields Fields) ([]byte, error) {
	value, err := s.ordered(name, fields)
	if err != nil {
		return nil, err
	}
	return appendValue(nil, value)
}

func (s Schema) ordered(name string, fields Fields) (Map, error) {
	one, known := s[name]
	if !known {
		return nil, fmt.Errorf("no message %s", name)
	}
	var out Map
	if one.tag != "" {
		out = append(out, Pair{"type", one.tag})
	}
	for _, f := range one.fields {
		value, given := fields[f.name]
		if !given {
			if !f.optional {
				return nil, fmt.Errorf("%s.%s is missing", name, f.name)
			}
			value = f.preset
		}
		plain, err := s.plain(f.kind, value)
		if err != nil {
			return nil, fmt.Errorf("%s.%s: %w", name, f.name, err)
		}
		out = append(out, Pair{f.name, plain})
	}
	return out, nil
}

// plain turns a value as programs (or JSON) hold it into what MessagePack writes, and checks it.
func (s Schema) plain(kind string, value any) (any, error) {
	if inner, nullable := strings.CutSuffix(kind, "?"); nullable {
		if value == nil {
			return nil, nil
		}
		return s.plain(inner, value)
	}
	if _, isMessage := s[kind]; isMessage {
		fields, ok := value.(Fields)
		if !ok {
			return nil, fmt.Errorf("%T is no %s", value, kind)
		}
		return s.ordered(kind, fields)
	}
	if kinds, ok := itemKinds(kind, value); ok {
		items, ok := value.([]any)
		if !ok || len(items) != len(kinds) {
			return nil, fmt.Errorf("%v is no %s", value, kind)
		}
		out := make([]any, len(items))
		for i := range items {
			var err error
			if out[i], err = s.plain(kinds[i], items[i]); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
	switch v := value.(type) {
	case json.Number:
		n, err := strconv.ParseInt(string(v), 10, 64)
		if err != nil {
			return nil, err
		}
		value = n
	case int:
		value = int64(v)
	case [32]byte:
		value = v[:]
	}
	return value, check(kind, value)
}

// itemKinds returns the kind of each item, for arrays and for tuples.
func itemKinds(kind string, value any) ([]string, bool) {
	if !strings.HasPrefix(kind, "[") {
		return nil, false
	}
	if list := listed.FindStringSubmatch(kind); list != nil && outside(list[1], ",") == len(list[1]) {
		items, ok := value.([]any)
		least, most := bounds(list[2], list[3])
		if !ok || int64(len(items)) < least || int64(len(items)) > most {
			return []string{"", "a wrong number of items"}, true
		}
		kinds := make([]string, len(items))
		for i := range kinds {
			kinds[i] = list[1]
		}
		return kinds, true
	}
	var kinds []string
	for inner := kind[1 : len(kind)-1]; inner != ""; {
		end := outside(inner, ",")
		kinds = append(kinds, inner[:end])
		inner = strings.TrimPrefix(inner[min(end+1, len(inner)):], " ")
	}
	return kinds, true
}

func bounds(low, high string) (int64, int64) {
	least, most := int64(math.MinInt64), int64(math.MaxInt64)
	if low != "" {
		least, _ = strconv.ParseInt(low, 10, 64)
	}
	if high != "" {
		most, _ = strconv.ParseInt(high, 10, 64)
	}
	return least, most
}

// check says whether a single value is one of its kind.
func check(kind string, value any) error {
	bad := fmt.Errorf("%v is no %s", value, kind)
	least, most, size := int64(0), int64(0), int64(0)
	switch kind {
	case "u53":
		most = 1 << 53
	case "u62":
		most = 1 << 62
	case "slots":
		most = 1<<62 - 1
	case "int":
		least, most = math.MinInt64, math.MaxInt64
	case "b16", "b32", "b64":
		want, _ := strconv.Atoi(kind[1:])
		if v, ok := value.([]byte); !ok || len(v) != want {
			return bad
		}
		return nil
	case "bool":
		if _, ok := value.(bool); !ok {
			return bad
		}
		return nil
	case "class":
		if v, ok := value.(string); !ok || v == "" || !className.MatchString(v) {
			return bad
		}
		return nil
	case "cause":
		if v, ok := value.(string); !ok || !causes[v] {
			return bad
		}
		return nil
	default:
		if strings.Contains(kind, "/") {
			v, ok := value.(string)
			for _, word := range strings.Split(kind, "/") {
				if ok && v == word {
					return nil
				}
			}
			return bad
		}
		parts := ranged.FindStringSubmatch(kind)
		if parts == nil {
			return fmt.Errorf("the document has an unknown type %q", kind)
		}
		least, most = bounds(parts[2], parts[3])
		switch v := value.(type) {
		case string:
			size = int64(utf8.RuneCountInString(v))
			if parts[1] != "text" {
				return bad
			}
		case []byte:
			size = int64(len(v))
			if parts[1] != "bytes" {
				return bad
			}
		default:
			if parts[1] != "int" {
				return bad
			}
		}
		if parts[1] != "int" {
			if size < least || size > most {
				return bad
			}
			return nil
		}
	}
	if v, ok := value.(int64); !ok || v < least || v > most {
		return bad
	}
	return nil
}

// Decode reads exactly one message of the names given, told apart by their tags.
func (s Schema) Decode(data []byte, names ...string) (string, Fields, error) {
	value, err := readValue(data)
	if err != nil {
		return "", nil, err
	}
	pairs, ok := value.(Map)
	if !ok {
		return "", nil, fmt.Errorf("a message is a map, not %T", value)
	}
	for _, name := range names {
		if tag := s[name].tag; tag == "" || len(pairs) > 0 && pairs[0].Name == "type" && pairs[0].Value == tag {
			fields, err := s.read(name, pairs)
			return name, fields, err
		}
	}
	return "", nil, fmt.Errorf("none of %v", names)
}

func (s Schema) read(name string, pairs Map) (Fields, error) {
	one, known := s[name]
	if !known {
		return nil, fmt.Errorf("no message %s", name)
	}
	given := Fields{}
	for i, pair := range pairs {
		if pair.Name == "type" && one.tag != "" {
			if i != 0 || pair.Value != one.tag {
				return nil, fmt.Errorf("another tag than %s", one.tag)
			}
			continue
		}
		given[pair.Name] = pair.Value
	}
	fields := Fields{}
	for _, f := range one.fields {
		value, there := given[f.name]
		delete(given, f.name)
		if !there {
			if !f.optional {
				return nil, fmt.Errorf("%s.%s is missing", name, f.name)
			}
			value = f.preset
		}
		read, err := s.readValue(f.kind, value)
		if err != nil {
			return nil, fmt.Errorf("%s.%s: %w", name, f.name, err)
		}
		fields[f.name] = read
	}
	for unknown := range given {
		return nil, fmt.Errorf("%s has no field %s", name, unknown)
	}
	return fields, nil
}

func (s Schema) readValue(kind string, value any) (any, error) {
	if inner, nullable := strings.CutSuffix(kind, "?"); nullable {
		if value == nil {
			return nil, nil
		}
		return s.readValue(inner, value)
	}
	if _, isMessage := s[kind]; isMessage {
		pairs, ok := value.(Map)
		if !ok {
			return nil, fmt.Errorf("%T is no %s", value, kind)
		}
		return s.read(kind, pairs)
	}
	if kinds, isArray := itemKinds(kind, value); isArray {
		items, ok := value.([]any)
		if !ok || len(items) != len(kinds) {
			return nil, fmt.Errorf("%v is no %s", value, kind)
		}
		out := make([]any, len(items))
		for i := range items {
			var err error
			if out[i], err = s.readValue(kinds[i], items[i]); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
	if n, ok := value.(json.Number); ok {
		return s.plain(kind, n)
	}
	return value, check(kind, value)
}
