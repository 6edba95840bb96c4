package conf

import (
	"bytes"
	_ "embed" // for the reference's introduction
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// intro is the part of the reference that is not made from the table.
//
//go:embed intro.md
var intro string

// WriteReference writes the reference page, docs/configuration.md.
func WriteReference(w io.Writer) error {
	var b bytes.Buffer
	b.WriteString(intro)
	referenceDefaults(&b)
	referenceRetired(&b)
	for _, group := range groups() {
		fmt.Fprintf(&b, "\n## %s\n", group)
		for i := range Params {
			if Params[i].Group == group {
				Params[i].reference(&b)
			}
		}
	}
	if _, err := w.Write(b.Bytes()); err != nil {
		return fmt.Errorf("write the reference: %w", err)
	}
	return nil
}

// groups are the headings in the order of Params.
func groups() []string {
	var list []string
	for _, p := range Params {
		if !slices.Contains(list, p.Group) {
			list = append(list, p.Group)
		}
	}
	return list
}

func referenceDefaults(b *bytes.Buffer) {
	b.WriteString("\n## Defaults that differ from repmgr 5\n\n| Parameter | repmgr 5 | Here | Why |\n|---|---|---|---|\n")
	for _, p := range Params {
		if p.Repmgr5 != "" {
			fmt.Fprintf(b, "| [%s](#%s) | %s | %s | %s |\n", p.Name, p.Name, p.Repmgr5, p.Default, p.Why)
		}
	}
	b.WriteString("\nParameters that repmgr 5 does not know: ")
	var added []string
	for _, p := range Params {
		if p.New {
			added = append(added, fmt.Sprintf("[%s](#%s)", p.Name, p.Name))
		}
	}
	b.WriteString(strings.Join(added, ", ") + ".\n")
}

func referenceRetired(b *bytes.Buffer) {
	b.WriteString("\n## Names of older versions\n\nA line that sets one of these is ignored with a warning, as in repmgr 5.\n\n| Name | What became of it |\n|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(retired)) {
		fmt.Fprintf(b, "| %s | %s |\n", name, retired[name])
	}
}

func (p *Param) reference(b *bytes.Buffer) {
	fmt.Fprintf(b, "\n### %s\n\n%s.", p.Name, capital(p.Brief))
	if p.About != "" {
		b.WriteString(" " + p.About)
	}
	if p.Unread != "" {
		b.WriteString(" **It " + p.Unread + ".** A line that sets it draws a warning.")
	}
	b.WriteString("\n\n")
	item := func(name, text string) { fmt.Fprintf(b, "* %s: %s\n", name, text) }
	item("Value", p.Expected())
	switch {
	case p.Required:
		item("Default", "none, it must be set")
	case p.Default == "":
		item("Default", "empty")
	default:
		item("Default", "`"+p.Default+"`")
	}
	if p.Repmgr5 != "" {
		item("Default of repmgr 5", "`"+p.Repmgr5+"`")
	}
	if p.Unread == "" {
		item("Read by", p.Reader.String())
		item("A change counts", p.Reload.String())
	}
	if p.New {
		item("New", "repmgr 5 does not know this parameter")
	}
	if p.Undocumented {
		item("Undocumented", "repmgr 5 reads this parameter, its manual does not name it")
	}
	if len(p.Placeholders) > 0 {
		var list []string
		for _, ph := range p.Placeholders {
			list = append(list, fmt.Sprintf("`%%%c` %s", ph.Letter, ph.Means))
		}
		item("Placeholders", strings.Join(list, "; "))
	}
	if p.Example != "" {
		fmt.Fprintf(b, "* Example: `%s`\n", p.assignment(p.Example))
	}
}

func capital(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// assignment is a line of the file that sets p, quoted where it must be.
func (p *Param) assignment(value string) string {
	if p.Kind == Integer || p.Kind == Boolean || p.Kind == Choice || p.Kind == Duration || p.Name == "node_name" {
		return p.Name + " = " + value
	}
	return p.Name + " = " + quote(value)
}

// WriteSample writes an annotated configuration file, repmgr.conf.sample. Only
// what every node must set is not commented out.
func WriteSample(w io.Writer) error {
	var b bytes.Buffer
	b.WriteString(`# An annotated repmgr.conf. What must be set on each node is set, as an example;
# all else is commented out. A line with a value shows the default, or, where it
# is marked so, an example. See docs/configuration.md.
`)
	for _, group := range groups() {
		fmt.Fprintf(&b, "\n\n# %s\n# %s\n", group, strings.Repeat("-", len(group)))
		for i := range Params {
			if Params[i].Group == group {
				Params[i].sample(&b)
			}
		}
	}
	if _, err := w.Write(b.Bytes()); err != nil {
		return fmt.Errorf("write the sample: %w", err)
	}
	return nil
}

func (p *Param) sample(b *bytes.Buffer) {
	b.WriteString("\n")
	comment(b, capital(p.Brief)+".")
	if p.Kind == Choice && len(p.Choices) > 1 {
		comment(b, "One of "+strings.Join(p.Choices, ", ")+".")
	}
	for _, ph := range p.Placeholders {
		comment(b, fmt.Sprintf("  %%%c  %s", ph.Letter, ph.Means))
	}
	if p.Repmgr5 != "" {
		comment(b, "The default of repmgr 5 was "+p.Repmgr5+".")
	}
	if p.Unread != "" {
		comment(b, "It "+p.Unread+".")
	}
	if p.New {
		comment(b, "repmgr 5 does not know it.")
	}
	switch {
	case p.Required:
		b.WriteString(p.assignment(p.Example) + "\n")
	case p.Example != "" && p.Default == "":
		b.WriteString("# Example:\n#" + p.assignment(p.Example) + "\n")
	default:
		b.WriteString("#" + p.assignment(p.Default) + "\n")
	}
}

// comment writes text as comment lines of at most 80 characters or so.
func comment(b *bytes.Buffer, text string) {
	const width = 78
	indent := text[:len(text)-len(strings.TrimLeft(text, " "))]
	line, words := indent, 0
	for word := range strings.FieldsSeq(text) {
		if len(line)+1+len(word) > width && words > 0 {
			b.WriteString("# " + line + "\n")
			line, words = indent+indent, 0
		}
		if words > 0 {
			line += " "
		}
		line += word
		words++
	}
	b.WriteString("# " + line + "\n")
}

// WriteHelp writes one line for each parameter, for --help.
func WriteHelp(w io.Writer) error {
	for _, p := range Params {
		text := p.Brief
		if p.Default != "" {
			text += " (default " + p.Default + ")"
		}
		if _, err := fmt.Fprintf(w, "  %-38s %s\n", p.Name, text); err != nil {
			return fmt.Errorf("write the help: %w", err)
		}
	}
	return nil
}

// String says who reads a parameter.
func (r Reader) String() string {
	switch r {
	case ByCommand:
		return "repmgr"
	case ByDaemon:
		return "repmgrd"
	default:
		return "repmgr and repmgrd"
	}
}

// String says what a changed value needs.
func (r Reload) String() string {
	switch r {
	case NextCommand:
		return "at the next command"
	case AtReload:
		return "at a reload"
	case AtRestart:
		return "at a restart of repmgrd"
	case AtRegister:
		return "once the node is registered again with --force, since it is kept in repmgr.nodes"
	case Never:
		return "not at all: a reload that finds it changed is refused"
	default:
		return "unknown"
	}
}
