package lab

// pluginDamages are the faults of single network plugins.
func pluginDamages() []damage { return nil }
