"""State of connections, from one process to the next: contract of carried.pyx.

Everything in it is for Python (bouncer.carry, bouncer.adopt, bouncer.succession).
"""
