package listing

type nftText struct{ *block }

func (p *nftText) line(l line) bool             { return true }
func (p *nftText) end()                         {}
func readNFTables(b *block, l line, raw []byte) {}
