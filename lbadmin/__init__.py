"""The Django project, and the processes beside it.

Importing the package loads nothing: the guard is to run where neither Django nor Celery can. The settings
make the Celery application the current one.
"""
