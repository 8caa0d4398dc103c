package listing

type iptablesSave struct{ *block }

func (p *iptablesSave) line(l line) bool { return true }
func (p *iptablesSave) end()             {}

type iptablesList struct{ *block }

func (p *iptablesList) line(l line) bool { return true }
func (p *iptablesList) end()             {}

type nftText struct{ *block }

func (p *nftText) line(l line) bool             { return true }
func (p *nftText) end()                         {}
func readNFTables(b *block, l line, raw []byte) {}
