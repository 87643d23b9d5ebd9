"""Devices, meshes and processes. All other packages use JAX's devices through this one."""
