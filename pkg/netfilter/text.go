package netfilter

func (t *Table) describe(r *Rule) {
	for i := range r.Exprs {
		if r.Exprs[i].Text == "" {
			r.Exprs[i].Text = string(r.Exprs[i].Op)
		}
	}
}
