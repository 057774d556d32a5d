"""The processes of lbadmin on one machine, run by supervisord: what `manage.py serve` and `demo` start.

    command ── supervisord ─┬─ broker   unix socket only
                            ├─ web      gunicorn
                            ├─ beat
                            └─ worker-<node>, one for each node here

Every process dies with its parent, however that ends; every process that ends by itself is started again.
"""
