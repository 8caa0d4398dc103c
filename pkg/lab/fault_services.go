package lab

// serviceDamages are the faults of kube-proxy's work.
func serviceDamages() []damage { return nil }
