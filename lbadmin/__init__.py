"""The Django project, and the processes beside it.

Importing the package loads nothing: the guard is to run where neither Django nor Celery can. The settings
make the Celery application the current one.

What a process loads stays to its end, and Python looks through all of it for garbage: many times while
it loads, and again when it ends. That was half of what it costs to start and to end one (0.5 of 1.0 s
for a worker). So garbage is looked for less often, and what is loaded is taken out of the search
(`gc.freeze`) where loading is over: the one is here, the other in `balancer.apps` and in each process
that loads more than Django.
"""

import gc

gc.set_threshold(20_000, 20, 20)
