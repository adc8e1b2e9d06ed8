package pipeline

import (
	"slices"
	"text/template/parse"
)

// Attributes returns the names of the attributes that the templates render, so
// that a manifest without them is refused before anything is made.
func (r *Renderer) Attributes() []string {
	var names []string
	for _, f := range r.files {
		if f.template != nil && f.template.Tree != nil {
			names = fieldsOf(f.template.Root, names)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// fieldsOf collects the first names of the fields below a node: {{.serial}} is
// serial. What stands within if, range and with is left out: the template says
// there that it copes without.
func fieldsOf(node parse.Node, names []string) []string {
	switch n := node.(type) {
	case *parse.ListNode:
		if n == nil {
			return names
		}
		for _, child := range n.Nodes {
			names = fieldsOf(child, names)
		}
	case *parse.ActionNode:
		names = fieldsOf(n.Pipe, names)
	case *parse.PipeNode:
		for _, cmd := range n.Cmds {
			for _, arg := range cmd.Args {
				names = fieldsOf(arg, names)
			}
		}
	case *parse.FieldNode:
		names = append(names, n.Ident[0])
	}
	return names
}
