"""A small cloud in a folder: what `gcloud`, `kubectl`, `sbatch`, `squeue` and `scancel` would do.

Installed on PATH under these names. It writes every call down, keeps slices and their hosts (each a
home folder in which commands really run), and fails as a scenario says.
"""

import json
import math
import os
import pathlib
import subprocess
import sys
import time

CLOUD = pathlib.Path(os.environ['STAND_IN_CLOUD'])


def load(name, default):
    file = CLOUD / name
    return json.loads(file.read_text()) if file.exists() else default


def store(name, value):
    (CLOUD / name).write_text(json.dumps(value))


def say(value, status=0):
    print(value if isinstance(value, str) else json.dumps(value))
    raise SystemExit(status)


def fail(text, status=1):
    print(f'ERROR: (gcloud) {text}', file=sys.stderr)
    raise SystemExit(status)


def scenario(line):
    """Rules, used up one after the other: `{'match', 'times', 'skip', 'hang', 'out', 'err',
    'status', 'lose', 'kill'}`.
    """
    rules = load('rules.json', [])
    for rule in rules:
        if rule['match'] not in line or rule.get('times', 1) == 0:
            continue
        if rule.get('skip', 0):
            rule['skip'] -= 1
            store('rules.json', rules)
            continue
        rule['times'] = rule.get('times', 1) - 1
        store('rules.json', rules)
        nodes = load('nodes.json', {})
        for node, state in rule.get('lose', {}).items():
            if state is None:
                nodes.pop(node)
            else:
                nodes[node]['state'] = state
            for host in CLOUD.glob(f'hosts/{node}-*'):  # its disks are gone
                host.rename(CLOUD / f'lost-{host.name}-{len(list(CLOUD.glob("lost-*")))}')
        for node, hosts in rule.get('kill', {}).items():
            nodes[node]['dead'] = hosts
        store('nodes.json', nodes)
        time.sleep(rule.get('hang', 0))
        if 'out' in rule:
            say(rule['out'], rule.get('status', 0))
        if 'err' in rule:
            fail(rule['err'], rule.get('status', 1))


def option(words, name, default=''):
    return next((w.partition('=')[2] for w in words if w.startswith(f'--{name}=')), default)


def hosts_of(words):
    if shape := option(words, 'topology'):
        return math.prod(map(int, shape.split('x'))) // 4
    kind, _, count = option(words, 'accelerator-type').rpartition('-')
    chips = int(count) // (2 if kind == 'v5p' else 1)
    return 1 if chips <= (4 if kind == 'v5p' else 8) else chips // 4


def make(name, words, hosts, **more):
    nodes = load('nodes.json', {})
    if name in nodes:
        fail(f'ALREADY_EXISTS: Resource {name} already exists')
    labels = dict([option(words, 'labels').split('=')]) if option(words, 'labels') else {}
    nodes[name] = {'state': 'READY', 'labels': labels, 'hosts': hosts, 'dead': [], **more}
    store('nodes.json', nodes)


def on_hosts(node, which, command):
    about = load('nodes.json', {})[node]
    worst = 0
    for number in range(about['hosts']) if which == 'all' else [int(which)]:
        if number in about['dead']:
            print(f'ssh: connect to host {node}-{number}: Connection refused', file=sys.stderr)
            worst = 255
            continue
        home = CLOUD / 'hosts' / f'{node}-{number}'
        home.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            ['sh', '-c', command],
            env={**os.environ, 'HOME': str(home), 'STAND_IN_HOST': f'{node}-{number}'},
            cwd=home,
            check=False,
        )
        worst = max(worst, done.returncode)
    raise SystemExit(worst)


def to_hosts(node, file, name):
    about = load('nodes.json', {})[node]
    for number in range(about['hosts']):
        home = CLOUD / 'hosts' / f'{node}-{number}'
        home.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes(pathlib.Path(file).read_bytes())


def tpu_vm(what, words):
    nodes = load('nodes.json', {})
    name = words[0]
    if what == 'create':
        make(name, words, hosts_of(words))
    elif what == 'scp':
        node, _, target = words[1].partition(':')
        to_hosts(node, words[0], target)
    elif name not in nodes:
        fail(f'NOT_FOUND: Resource {name} was not found')
    elif what == 'describe':
        say(nodes[name])
    elif what == 'delete':
        del nodes[name]
        store('nodes.json', nodes)
    elif what == 'ssh':
        on_hosts(name, option(words, 'worker', '0'), option(words, 'command'))


def queued(what, words):
    queue, nodes = load('queue.json', {}), load('nodes.json', {})
    name = words[0]
    if what == 'create':
        if name in queue:
            fail(f'ALREADY_EXISTS: {name}')
        count = int(option(words, 'node-count', '1'))
        prefix = option(words, 'node-prefix')
        made = [option(words, 'node-id')] if count == 1 else [f'{prefix}-{i}' for i in range(count)]
        # It waits for so many looks, then it is there.
        queue[name] = {'wait': load('wait.json', 0), 'nodes': made, 'words': words}
        store('queue.json', queue)
        return
    if name not in queue:
        fail(f'NOT_FOUND: {name} was not found')
    if what == 'delete':
        for node in queue.pop(name)['nodes']:
            nodes.pop(node, None)
        store('nodes.json', nodes)
        store('queue.json', queue)
        return
    entry = queue[name]
    words = entry['words']
    label = dict([option(words, 'labels').split('=')])
    specs = {'nodeSpec': [{'node': {'labels': label}} for _ in entry['nodes']]}
    if entry.get('failed'):
        error = {'error': {'message': entry['failed']}}
        say({'state': {'state': 'FAILED', 'failedData': error}, 'tpu': specs})
    if entry['wait'] > 0:
        entry['wait'] -= 1
        store('queue.json', queue)
        say({'state': {'state': 'WAITING_FOR_RESOURCES'}, 'tpu': specs})
    for node in entry['nodes']:
        if node not in nodes:
            make(node, words, hosts_of(words))
    say({'state': {'state': 'ACTIVE'}, 'tpu': specs})


def groups(what, words):
    nodes = load('nodes.json', {})
    name = words[0]
    if what == 'create':
        make(name, words, int(option(words, 'size')), description=option(words, 'description'))
    elif name not in nodes:
        fail(f"Could not fetch resource: - The resource '{name}' was not found")
    elif what == 'describe':
        say({'name': name, 'description': nodes[name]['description']})
    elif what == 'list-instances':
        status = {'READY': 'RUNNING', 'PREEMPTED': 'TERMINATED'}.get(
            nodes[name]['state'], 'STAGING'
        )
        say(
            [
                {'instance': f'zones/z/instances/{name}.{i}', 'instanceStatus': status}
                for i in range(nodes[name]['hosts'])
            ]
        )
    elif what == 'delete':
        del nodes[name]
        store('nodes.json', nodes)


def compute(words):
    match words:
        case ['ssh', machine, *rest]:
            node, _, number = machine.rpartition('.')
            on_hosts(node, number, option(rest, 'command'))
        case ['scp', file, target, *_]:
            machine, _, name = target.partition(':')
            to_hosts(machine.rpartition('.')[0], file, name)
        case ['instances', 'describe', *_]:
            say({'networkInterfaces': [{'networkIP': '10.0.0.2'}]})
        case ['instance-templates' | 'resource-policies', what, *rest]:
            parts = load('parts.json', {})
            name = f'{words[0]}/{rest[1] if rest[0] == "workload-policy" else rest[0]}'
            if what == 'create' and name in parts:
                fail(f'{name} already exists')
            if what != 'create' and name not in parts:
                fail(f"The resource 'projects/p/global/{name}' was not found")
            if what == 'describe':
                say(parts[name])
            if what == 'delete':
                del parts[name]
            elif words[0] == 'instance-templates':
                label = dict([option(rest, 'labels').split('=')])
                parts[name] = {'properties': {'labels': label}}
            else:
                parts[name] = {'description': option(rest, 'description')}
            store('parts.json', parts)


def container(what, words):
    pools = load('pools.json', {})
    name = words[0]
    if what == 'create':
        pools[name] = dict([option(words, 'node-labels').split('=')])
    elif name not in pools:
        fail(f'ResponseError: code=404, message=Not found: {name}')
    elif what == 'describe':
        say({'status': 'RUNNING', 'config': {'labels': pools[name]}})
    elif what == 'delete':
        del pools[name]
    store('pools.json', pools)


def main(program, words):
    line = ' '.join([program, *words])
    stdin = '' if sys.stdin.isatty() or program not in ('kubectl', 'sbatch') else sys.stdin.read()
    with (CLOUD / 'calls').open('a') as calls:
        calls.write(json.dumps({'words': [program, *words], 'stdin': stdin}) + '\n')
    scenario(line)
    match [program, *words]:
        case ['gcloud', 'compute', 'tpus', 'tpu-vm', what, *rest]:
            tpu_vm(what, rest)
        case ['gcloud', 'compute', 'tpus', 'queued-resources', what, *rest]:
            queued(what, rest)
        case ['gcloud', 'compute', 'instance-groups', 'managed', what, *rest]:
            groups(what, rest)
        case ['gcloud', 'compute', *rest]:
            compute(rest)
        case ['gcloud', 'container', 'node-pools', what, *rest]:
            container(what, rest)
        case ['sbatch', *_]:
            say('4711')
        case _:
            say('')


if __name__ == '__main__':
    main(pathlib.Path(sys.argv[0]).name, sys.argv[1:])
