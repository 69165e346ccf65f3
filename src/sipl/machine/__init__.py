"""The hypervisor's side of secure IPL: what a guest finds when it looks at its machine."""
