"""The decoder's step as one native call, compiled by the system's compiler where there is one."""
